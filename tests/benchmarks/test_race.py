"""The race: runners take turns, alone on the machine, and the time of their own turns counts."""

import sys
import tarfile
import time

import psutil
import pytest
from PIL import Image

from preprocess.errors import UserError
from tests.benchmarks.race import Runner, race
from tests.benchmarks.settings import Settings
from tests.benchmarks.stages import race as stage
from tests.benchmarks.workers import zoo

# A process that writes an error from a child of its own every 0.2 s of its clock: 0.9, 0.8, ... 0.1.
SCRIPT = """
import subprocess, sys
child = '''
import sys, time
for tenths in range(9, 0, -1):
    time.sleep(0.2)
    with open(sys.argv[1], "a") as file:
        file.write(f"{tenths / 10}\\\\n")
'''
sys.exit(subprocess.run([sys.executable, "-c", child, sys.argv[1]]).returncode)
"""


def runner(name, folder, script=SCRIPT):
    errors = folder / f"{name}.txt"

    def read():
        return [float(line) for line in errors.read_text().splitlines()] if errors.exists() else []

    return Runner(name, (sys.executable, "-c", script, str(errors)), read, folder / f"{name}.out")


def states(runner):
    """The states of a command's processes."""
    return {process.status() for process in runner.processes()}


def test_all_processes_of_a_runner_stand_still_outside_of_its_turn(tmp_path):
    one = runner("one", tmp_path)
    try:
        while not one.curve:
            one.run(0.2)
        assert len(one.processes()) == 2
        deadline = time.monotonic() + 60
        while states(one) != {psutil.STATUS_STOPPED} and time.monotonic() < deadline:
            time.sleep(0.01)  # a process in the middle of a system call stops after it
        assert states(one) == {psutil.STATUS_STOPPED}
        before = one.read_errors()
        time.sleep(0.6)
        assert one.read_errors() == before
        spent = one.seconds
        assert spent >= 0.2
        time.sleep(0.2)
        assert one.seconds == spent
        one.run(60)
        assert one.ended
        assert [error for _, error in one.curve] == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    finally:
        one.end()


def test_a_race_ends_when_both_have_reached_the_error_and_leaves_no_process(tmp_path):
    runners, said = [runner(name, tmp_path) for name in ("one", "other")], []
    seen = set()

    def say(text):
        said.append(text)
        seen.update(*(r.processes() for r in runners))

    race(runners, 0.5, 0.3, 60, say)
    for r in runners:
        assert r.seconds_to(0.5) is not None
        assert r.seconds_to(0.8) <= r.seconds_to(0.5)
        assert r.seconds_to(0.01) is None
        assert r.curve == sorted(r.curve)
    assert any(text.startswith("other: 50.0 % after 0.") for text in said)
    assert seen
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in seen)


def test_a_runner_that_never_gets_there_is_ended(tmp_path):
    never = runner("never", tmp_path, "import time\nwhile True: time.sleep(0.1)")
    race([never], 0.5, 0.2, 0.5)
    assert never.seconds_to(0.5) is None
    assert never.ended
    assert never.seconds >= 0.5


def test_a_runner_that_fails_ends_the_race_with_its_output(tmp_path):
    bad = runner("bad", tmp_path, "raise SystemExit('no such photographs')")
    with pytest.raises(RuntimeError, match="bad failed: no such photographs"):
        race([bad], 0.5, 5, 60)


@pytest.fixture
def photographs(tmp_path):
    """Class folders of two classes with pictures of several shapes."""
    for part in ("train", "val"):
        for number, size in enumerate(((300, 200), (200, 300), (64, 640), (256, 256))):
            folder = tmp_path / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").resize(size).save(folder / f"{number}.jpg")
    return tmp_path


@pytest.mark.parametrize("training", [True, False])
def test_the_peer_reads_photographs_of_any_shape(training, photographs):
    dataset = zoo.Photographs(photographs / "train", training)
    assert (len(dataset), dataset.classes) == (4, 2)
    for index in range(4):
        pixels, label = dataset[index]
        assert (tuple(pixels.shape), label) == ((3, 224, 224), index // 2)


def test_the_peers_central_crop_is_of_the_middle():
    image = Image.new("RGB", (512, 256), "red")
    image.paste("blue", (144, 16, 368, 240))  # 224x224 in the middle
    assert zoo.centre(image).getcolors() == [(224 * 224, (0, 0, 255))]


def test_the_curves_are_written_and_drawn(tmp_path):
    runners = {name: runner(name, tmp_path) for name in ("ours", "peer")}
    runners["ours"].curve, runners["peer"].curve = [(60.0, 0.5), (120.0, 0.3)], [(90.0, 0.8)]
    stage.write(tmp_path / "bench-race.json", runners)
    assert (tmp_path / "bench-race-curves.png").stat().st_size > 10_000
    assert '"curve"' in (tmp_path / "bench-race-curves.json").read_text()


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_photographs_are_taken_from_a_folder_or_a_tar(kind, photographs, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    source = photographs
    if kind == "tar":
        source = scratch / "photographs.tar"
        with tarfile.open(source, "w") as file:
            for part in ("train", "val"):
                file.add(photographs / part, part)
    found = stage.folder(Settings(imagenet=source), scratch)
    assert len(list((found / "train").rglob("*.jpg"))) == 4


def test_without_photographs_the_race_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Imagenette as data/imagenette"):
        stage.folder(Settings(), tmp_path)
    (tmp_path / "data" / "imagenette" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="data/imagenette has no train/CLASS/ and val/CLASS/"):
        stage.folder(Settings(), tmp_path)
