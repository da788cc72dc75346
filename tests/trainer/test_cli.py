"""Imports of commands, which the garbage collector leaves alone."""

import contextlib
import gc

import pytest

from preprocess.shared.program import words
from trainer.cli import parse_config, quick_imports
from trainer.parallel import interrupt


@pytest.mark.parametrize("command", [True, False])
def test_what_a_command_imports_is_never_collected_and_a_programs_own_objects_are(command, monkeypatch):
    monkeypatch.setattr(interrupt, "is_command", lambda: command)
    before = gc.get_freeze_count()
    with contextlib.suppress(ImportError), quick_imports():
        assert gc.isenabled() != command
        raise ImportError("of a library that is missing")
    assert gc.isenabled()
    assert (gc.get_freeze_count() > before) == command


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(parse_config(["--store=~/a=b.zarr"]).run.store) == "/home/me/a=b.zarr"
    assert words(["~", "--x=~", "~me", "a~/b", "--~/x"]) == [
        "/home/me",
        "--x=/home/me",
        "~me",
        "a~/b",
        "--~/x",
    ]
