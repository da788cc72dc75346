"""Command lines: `alexnet`, and `--help` and mistyped flags of every command, which need no large library."""

import json
import sys

import pytest

from tests.launch import ROOT, run
from tests.test_architecture import FILES
from trainer import alexnet
from trainer.parallel import interrupt

ALL = """
import contextlib, io, json, runpy, sys
from trainer import alexnet

LARGE = {"torch", "mpi4py", "numba", "tensorstore", "scipy", "matplotlib"}
for name, (module, _) in alexnet.COMMANDS.items():
    typed = "python -m " + module.removesuffix(".__main__")
    for program, start in (
        (typed, lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)),
        (f"alexnet {name}", lambda: alexnet.main([name, *flags])),
    ):
        for flags in (["--help"], ["--no-such-flag"], ["--run", "runs/a", "--no-such-flag"]):
            sys.argv[:] = [module, *flags]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                try:
                    start()
                except SystemExit as leaving:
                    code = leaving.code
            large = sorted(LARGE & set(sys.modules))
            print(json.dumps([program, flags, code, large, program in printed.getvalue()]))
"""


def test_help_and_mistyped_flags_need_no_large_library_and_show_the_command_as_typed(tmp_path):
    done = run(sys.executable, "-c", ALL, cwd=tmp_path, PYTHONPATH=str(ROOT), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 6 * len(alexnet.COMMANDS)
    for program, flags, code, large, named in found:
        assert (code or 0, large, named) == (0 if flags == ["--help"] else 2, [], True), program


def test_alexnet_has_every_command():
    commands = {
        module
        for module, path in FILES.items()
        if module.startswith("trainer") and '\nif __name__ == "__main__"' in path.read_text()
    }
    ours = {module for module, _ in alexnet.COMMANDS.values()}
    assert ours == commands - {"trainer.alexnet"} | {"preprocess.miniature.__main__"}


def test_alexnet_help_has_a_line_for_each_command(capsys):
    with pytest.raises(SystemExit):
        alexnet.main(["--help"])
    text = capsys.readouterr().out
    for name, (_, line) in alexnet.COMMANDS.items():
        assert any(shown.split(maxsplit=1) == [name, line] for shown in text.splitlines() if shown.strip())


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["python", "/venv/bin/alexnet", "train"], True),
        (["python", "-m", "trainer.run"], True),
        (["python", "notebook.py", "alexnet"], False),
    ],
)
def test_sigint_is_handled_by_commands_alone(typed, command, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert interrupt.is_command() == command
