"""The pages: files and folders that they name exist, tables match the code, commands run.

Every line of a block marked `sh` is a command. So that a laptop can run them, some things are replaced:

- the store is a tiny miniature, in data/imagenet256.zarr; the runs that are named are small runs on it
- training: a network of few filters, one step, batch size 16, no figures; `mpirun -n 8` becomes `-n 2`
- imports: narrow networks with the classes of the tiny store, which are not ILSVRC-2012's
- Snakemake: a dry run, on the source of the tiny store; other tests run the real command
- make: `make -n`, which prints the commands; CI runs lint and test
- SLURM: the trainer's flags are parsed; tests/slurm runs the scripts on a real SLURM
- ablations and repeat: the flags are parsed; tests/trainer/test_experiment_runs.py runs them
- the live page: started, and ended once it prints its address; tests/trainer/test_watch.py tests the page
"""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests import reference
from tests.launch import NETWORK, ROOT, ranks, run
from tests.trainer.interchange import caffe
from tests.trainer.interchange.zoo import graph
from tests.weights import narrow_alexnet
from trainer.cli import parse, parse_config
from trainer.experiments import ablations, repeat

TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text() for page in PAGES}
LINES = [
    line.split(" #")[0].strip()
    for text in TEXT.values()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.strip()
]
COMMANDS = list(dict.fromkeys(LINES))
EXAMPLES = [
    (page, example)
    for page, text in TEXT.items()
    for example in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]
SMALL = (*NETWORK, "--batch-size", "16", "--no-figures")
INSTEAD = {
    "trainer.run": (*SMALL, "--max-steps", "1"),
    "trainer.figures": ("--only", "conv1-filters"),
    "trainer.export": ("--no-onnx",),
    "trainer.import_weights": ("--store", "data/imagenet256.zarr"),
    "trainer.timeline": (*NETWORK, "--batch-size", "4"),
    "trainer.experiments": ("--max-epochs", "1", "--relu-rates", "0.001", "--tanh-rates", "0.001"),
}
"""Flags that are added; of two equal flags the later one wins."""


def test_the_switches_are_those_of_the_code():
    assert reference.SWITCHES.read_text() == reference.switches(), "run: python -m tests.reference"


def test_the_recipes_are_those_of_the_code():
    page = reference.RECIPES.read_text()
    assert page == reference.with_table(page), "run: python -m tests.reference"


def test_links_lead_somewhere_and_images_are_small():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for image in (ROOT / "docs").glob("*.*g"):
        assert image.stat().st_size < 150_000, image
        assert any(image.name in text for text in TEXT.values()), f"no page shows {image}"


def test_the_changelog_begins_with_what_is_unreleased_and_then_the_present_version():
    first, second = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", TEXT["CHANGELOG.md"], re.MULTILINE)[
        :2
    ]
    assert first == "Unreleased"
    assert f'version = "{second}"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_map_describes_every_folder():
    for package in ("preprocess", "trainer"):
        for file in (ROOT / package).glob("*/__init__.py"):
            assert f"**`{file.parent.name}/`**" in TEXT["how-it-works.md"], file.parent


def test_the_files_that_the_map_names_exist():
    folders = ("preprocess", "trainer", "tests")
    sources = [f"/{path}" for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = set(re.findall(r"[\w/]+\.py\b", TEXT["how-it-works.md"]))
    assert len(named) > 50
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in sources)] == []


def test_every_command_is_of_a_kind_that_is_run_here():
    kinds = (" -m trainer.", " -m preprocess.", "snakemake ", "make ", "cluster/", "source ")
    assert COMMANDS
    assert [c for c in COMMANDS if not any(kind in f" {c}" for kind in kinds)] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_its_targets(command):
    done = run("make", "-n", *shlex.split(command)[1:], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_environment_that_is_activated_is_the_one_that_is_made():
    (command,) = [c for c in COMMANDS if c.startswith("source ")]
    folder = command.split()[1].removesuffix("/bin/activate")
    assert f"VENV={folder}\n" in (ROOT / "cluster" / "setup.sh").read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("snakemake ")])
def test_snakemake_takes_the_settings(command, tiny_store, tmp_path):
    given = [word for word in shlex.split(command)[1:] if word not in ("preprocess", "--config")]
    given = [word for word in given if not word.startswith(("imagenet=", "store="))]
    source = f"imagenet={tiny_store.parent / 'imagenet'}"
    done = run(
        *("snakemake", "--dry-run", "preprocess", "--config"),
        *(*given, source, f"store={tmp_path / 'store.zarr'}"),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("cluster/")])
def test_scripts_are_there_and_the_trainer_knows_what_follows(command):
    script, *words = shlex.split(command)
    assert (ROOT / script).exists()
    if "--" in words:
        parse_config(words[words.index("--") + 1 :])


def modules() -> list[tuple[int, str, list[str]]]:
    """(ranks, module, flags) of each command of the two packages, except those with their own tests below."""
    found = []
    for command in COMMANDS:
        words = shlex.split(command)
        count = int(words[2]) if words[0] == "mpirun" else 1
        if "-m" not in words or {"trainer.watch", "trainer.doctor", "ablations", "repeat"} & set(words):
            continue
        at = words.index("-m") + 1
        found.append((count, words[at], words[at + 1 :]))
    return found


def write_known_weights(folder):
    """Narrow networks under the names of known files, with as many outputs as the store has classes."""
    weights = narrow_alexnet()
    np.savez(folder / "caffe.npz", **weights)
    network, mean = caffe.net(weights, caffe.train_val()), np.full((1, 3, 256, 256), 110)
    (folder / "bvlc_alexnet.caffemodel").write_bytes(network.SerializeToString())
    (folder / "imagenet_mean.binaryproto").write_bytes(caffe.blob(mean).SerializeToString())
    (folder / "bvlcalexnet-12.onnx").write_bytes(graph(weights=weights)[0].SerializeToString())


@pytest.fixture(scope="module")
def workplace(tiny_store, small_run, tmp_path_factory):
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "data").mkdir()
    for name in ("imagenet256.zarr", "v2.zarr", "a.zarr", "photographs.zarr"):
        (folder / "data" / name).symlink_to(tiny_store)
    (folder / "data" / "imagenet").symlink_to(tiny_store.parent / "imagenet")
    for name in ("paper-001", "paper-002", "imagenette/seed-0"):
        shutil.copytree(small_run, folder / "runs" / name)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    (folder / "photographs").mkdir()
    Image.fromarray(pixels).save(folder / "photographs" / "cat.jpg")
    write_known_weights(folder)
    records = np.random.default_rng(0).integers(0, 10, (50, 3073), dtype=np.uint8).tobytes()
    with tarfile.open(folder / "data" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = len(records)
        archive.addfile(member, io.BytesIO(records))
    return folder


@pytest.mark.parametrize("many", [False, True], ids=["one process", "a pair of ranks"])
def test_the_trainers_commands_run(many, workplace, monkeypatch):
    batch = []
    for number, (count, module, flags) in enumerate(modules()):
        if (count > 1) != many:
            continue
        asks = "--help" in flags or "--tyro-print-completion" in flags
        mine = [] if asks else [*INSTEAD.get(module, ())]
        if module == "trainer.run" and not asks:  # each in its own run, of one step
            mine += ["--run", f"runs/docs-{number}"]
        flags = [
            re.sub(r"step-\d+", "step-00000004", flag) for flag in flags
        ]  # a step that the small run has
        batch.append([module, *flags, *mine])
    assert len(batch) >= 5
    target = workplace / f"commands-{many}.json"
    target.write_text(json.dumps(batch))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # tests.commands is not installed
    start = ("-m", "tests.commands", str(target))
    done = ranks(2, *start, cwd=workplace) if many else run(sys.executable, *start, cwd=workplace)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert sum(line.startswith("$ ") for line in done.stdout.splitlines()) >= len(batch)


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_the_examples_in_python_run(page, example, workplace):
    images = 'images_BSS3 = open_store("data/imagenet256.zarr").val.read(np.arange(2))\n'
    imports = "import numpy as np\nfrom preprocess.store import open_store\n"
    code = imports + images + example.replace("auto-001", "paper-001")
    done = run(sys.executable, "-c", code, cwd=workplace)
    assert done.returncode == 0, f"{page}: {done.stderr}"


def test_the_live_page_starts(workplace):
    (command,) = {c for c in COMMANDS if "trainer.watch" in c}
    words = shlex.split(command)[1:]
    process = subprocess.Popen(
        [sys.executable, *words, "--port", "0"], cwd=workplace, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
    finally:
        process.terminate()
        process.wait(20)


# Without flags it is in tests/trainer/test_doctor.py.
@pytest.mark.parametrize("command", [c for c in COMMANDS if "trainer.doctor -" in c])
def test_the_doctor_finds_nothing_broken(command, workplace):
    done = run(sys.executable, *shlex.split(command)[1:], cwd=workplace)
    assert done.returncode == 0, done.stdout
    assert "ok    store" in done.stdout


def arguments(name, kind):
    """The arguments of each command on the pages that calls this experiment."""
    lines = [shlex.split(c) for c in COMMANDS if f"trainer.experiments {name}" in c]
    assert lines
    return [parse(kind, name, kind(), words[words.index(name) + 1 :], ranks=False) for words in lines]


def test_the_experiments_that_train_take_their_flags():
    parts = ("lrn", "overlap", "dropout", "colour", "towers", "crops", "relu")
    assert [a.parts for a in arguments("ablations", ablations.Arguments)] == [parts]
    assert {a.seeds for a in arguments("repeat", repeat.Arguments)} == {(0,), (0, 1, 2)}
