"""Names that a screen, a table, a page or a formula would take for something else."""

import json
import os
import shlex
import shutil

import pytest
import yaml

from preprocess.store import StoreError, open_store
from tests.launch import NETWORK
from tests.preprocess.helpers import draw, encode, make_store, stage
from tests.trainer.in_process import command

CLASSES = {
    os.fsdecode(b"caf\xe9"): r"caf\xe9",
    "[red] cat[/red]".replace("/", "\u2215"): "[red] cat[\u2215red]",
    "a {b} $c$ :cat:": "a {b} $c$ :cat:",
    "\x1b[31m": r"\x1b[31m",
}
"""Each class, and how it is shown."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A store of such classes, and a run of one step."""
    root = tmp_path_factory.mktemp("names")
    for number, name in enumerate(sorted(CLASSES)):
        folder = root / "im {a}" / "train" / name
        folder.mkdir(parents=True)
        for n in range(8):
            (folder / f"{n} [x].jpg").write_bytes(encode(draw(10 * number + n, 240, 230)))
    store = make_store(
        root / "im {a}", root / "st [b].zarr", "--image-size", 224, "--validation-fraction", 0.25
    )
    done = command(
        "run", "--store", store, *NETWORK, "--batch-size", "4", "--max-steps", "1", "--run", "[r]", cwd=root
    )
    assert done.returncode == 0, done.stderr
    return root


def test_the_report_shows_them(workplace):
    done = stage("report", "--store", workplace / "st [b].zarr")
    assert done.returncode == 0, done.stderr
    page = (workplace / "st [b].zarr.html").read_text()
    for name in CLASSES.values():
        assert f"<figcaption>{name}</figcaption>" in page


def test_the_tables_show_them(workplace):
    done = command("evaluate", "--run", "[r]", "--per-class", "--json", "x.json", cwd=workplace)
    assert done.returncode == 0, done.stderr
    for name in ("[r]", *CLASSES.values()):
        assert name in done.stdout, done.stdout
    assert [row["class"] for row in json.loads((workplace / "x.json").read_text())["per_class"]] == sorted(
        CLASSES
    )


def test_predict_shows_them(workplace):
    picture = workplace / "im {a}/train" / os.fsdecode(b"caf\xe9") / "3 [x].jpg"
    (workplace / "p").mkdir()
    (workplace / "p" / os.fsdecode(b"[a] \xe9.jpg")).write_bytes(picture.read_bytes())
    (workplace / "p" / os.fsdecode(b"b\xe9.jpg")).write_bytes(b"")
    done = command("predict", "p", "--model", "[r]", "--top", "9", "--annotate", "drawn", cwd=workplace)
    assert done.stderr.endswith("error: p/b\\xe9.jpg is empty\n"), done.stderr
    for name in (r"p/[a] \xe9.jpg", *CLASSES.values()):
        assert name in done.stdout, done.stdout
    assert len(list((workplace / "drawn").iterdir())) == 1


def test_the_model_card_and_the_figures_show_them(workplace):
    done = command("export", "[r]", "--to", "card", "--no-onnx", cwd=workplace)
    assert done.returncode == 0, done.stderr
    card = (workplace / "card/README.md").read_text()
    assert "\n# AlexNet, \\[r\\]\n" in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"] == "AlexNet, [r]"
    assert r"caf\\xe9" in card
    assert r"a {b} \$c\$ :cat:" in card
    done = command("figures", "[r]", "--only", "predictions", "confusion", cwd=workplace)
    assert done.stdout.count("not drawn") == 0, done.stdout
    assert done.returncode == 0, done.stderr


def test_a_remedy_can_be_typed_as_it_is_written(workplace):
    (workplace / "a copy.zarr").mkdir()
    shutil.copytree(workplace / "st [b].zarr", workplace / "a copy.zarr", dirs_exist_ok=True)
    (workplace / "a copy.zarr/val/zarr.json").write_text("{")
    with pytest.raises(StoreError) as refused:
        open_store(workplace / "a copy.zarr")
    _, command_line, _ = str(refused.value).split("`")
    words = shlex.split(command_line)
    assert words == ["python", "-m", "preprocess.verify", "--store", str(workplace / "a copy.zarr")]
    assert stage("verify", *words[3:]).returncode == 0
    assert open_store(workplace / "a copy.zarr").classes == tuple(sorted(CLASSES))
