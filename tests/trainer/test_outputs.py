"""Outputs that cannot be written: each command says so before it reads or computes anything."""

import pytest

from tests.trainer.in_process import command

COMMANDS = {
    "evaluate": ("--run", "no-run", "--json", "file/x.json"),
    "export": ("no-run", "--to", "file/x"),
    "predict": ("no-image.jpg", "--annotate", "file/x"),
    "features": ("no-image.jpg", "--to", "file/x.npz"),
    "figures": ("no-run", "--together", "file/x.png"),
    "experiments": ("ablations", "--store", "no-store", "--out", "file/x"),
    "import_weights": ("weights.pt", "--run", "file/x"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_cannot_be_written_is_a_sentence_before_the_work(name, tmp_path):
    (tmp_path / "file").touch()
    done = command(name, *COMMANDS[name], cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: file/x"), done.stderr
    assert "cannot be written: Not a directory. Name another place." in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_figures_name_says_its_format(tmp_path):
    done = command("figures", "no-run", "--together", "curves", cwd=tmp_path)
    assert done.stderr == ("error: curves must end in .png or .svg or .pdf: the name says the format.\n")


def test_folders_of_an_output_are_made(small_run, tmp_path):
    done = command("evaluate", "--run", small_run, "--json", "new/folder/x.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new/folder/x.json").is_file()
