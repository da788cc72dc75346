"""The page of `trainer.watch` in a real browser, while the runs' files are written."""

import io
import json
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.browser import open_page
from tests.launch import run as start
from trainer.commands import watch
from trainer.commands.live import LiveRun
from trainer.recipes import AUTO, settle
from trainer.runs import run_folder

LINES = [
    {"step": 0, "ranks": 4, "device": "cpu", "last_step": 40, "time": 1.0},
    *(
        {"step": s, "epoch": s / 10, "loss": 2 / s, "lr": 0.01, "images_per_second": 64.0, "time": 1.0 + s}
        for s in (5, 10, 15, 20)
    ),
    {"step": 20, "epoch": 2, "val_top1_error": 0.5, "val_top5_error": 0.25, "time": 22.0},
]


def make_run(folder, lines=LINES):
    """A run's folder as `trainer.run` leaves it, with one ramp as every filter."""
    config, _ = settle(AUTO, 320)
    run_folder.write_config(folder, config, "fingerprint")
    append(folder, lines)
    add_checkpoint(folder, 20)
    return folder


def append(folder, lines):
    with (folder / run_folder.LOG).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def add_checkpoint(folder, step):
    target = folder / "checkpoints" / f"step-{step:08d}"
    target.mkdir(parents=True)
    ramp = np.tile(np.linspace(-1, 1, 363, dtype=np.float32).reshape(3, 11, 11), (48, 1, 1, 1))
    for tower, sign in (("a", 1), ("b", -1)):
        safetensors.numpy.save_file({"conv1.weight": sign * ramp}, target / f"tower_{tower}.safetensors")
    (folder / "checkpoints" / "latest").write_text(target.name)


@pytest.fixture
def page(tmp_path):
    """Two runs, and the address at which the command shows them."""
    made = [make_run(tmp_path / "runs" / name) for name in ("first", "<b>second")]
    command = [sys.executable, "-m", "trainer.watch", *map(str, made), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[0]
    yield address, made
    process.terminate()
    process.wait(10)


def test_a_browser_shows_runs_side_by_side_and_their_new_lines(page, tmp_path):
    address, (first, second) = page
    with open_page(address, tmp_path / "profile") as browser:
        browser.until("document.querySelectorAll('#facts tr').length == 3")
        text = browser.value("document.querySelector('#facts').innerText")
        # (40 - 20) steps of 32 images at 64 images/s are 10 s.
        for words in ("first", "<b>second", "20 of 40", "2.00 of 8", "64.0", "10 s", "4, cpu", "50.00 %"):
            assert words in text, text
        assert "step-00000020" in text
        assert browser.value("document.querySelectorAll('#facts b').length") == 0  # a name is text
        browser.until("document.querySelectorAll('.plot svg.main-svg').length >= 4")
        drawn = "document.querySelectorAll('#loss .scatterlayer .trace path.js-line').length"
        assert browser.until(drawn) == 2
        # 3 rows of 16 filters for each tower, 12 weights each with its border, 3 pixels per weight.
        browser.until("[...document.images].length == 2 && [...document.images].every(i => i.naturalWidth)")
        size = browser.value("[document.images[0].naturalWidth, document.images[0].naturalHeight]")
        assert size == [576, 2 * 108 + 9]  # and a white band between the towers
        caption = browser.value("document.querySelector('figcaption').innerText")
        assert caption.startswith("first, step-00000020; tower a: correlation 0.")
        assert "48 of 48 of colour; tower b: correlation 0." in caption
        assert "not formed" not in caption

        append(first, [{**LINES[4], "step": 30, "epoch": 3.0, "loss": 0.05, "images_per_second": 128.0}])
        add_checkpoint(first, 30)
        (second / run_folder.COMPLETE).write_text("20 steps\n")
        append(second, [[]])
        browser.until("document.querySelector('#facts').innerText.includes('30 of 40')")
        browser.until("document.querySelector('#facts').innerText.includes('complete')")
        browser.until(
            "document.querySelector('#facts').innerText.includes('1 line of its log could not be read')"
        )
        browser.until("document.images[0].src.includes('step-00000030')")
        (second / run_folder.CONFIG).write_text("[]")  # a bad run is a row that says so
        browser.until("document.querySelector('td.error')?.innerText.includes('is not an object')")
        append(first, [{**LINES[4], "step": 31, "epoch": 3.1, "images_per_second": 128.0}])
        browser.until("document.querySelector('#facts').innerText.includes('31 of 40')")
        assert browser.value("document.getElementById('loss').data[0].x.at(-1)") == 3.1
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
        assert browser.complaints == []


def test_a_request_under_another_host_name_is_refused(page):
    address, _ = page
    request = urllib.request.Request(f"{address}/state", headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 403


def test_each_filter_is_scaled_to_its_own_range_and_tower_a_is_above(tmp_path):
    image = np.asarray(Image.open(io.BytesIO(watch.filters(make_run(tmp_path / "run")))))
    small = image[:: watch.SCALE, :: watch.SCALE]
    assert small.shape == (6 * 12 + 3, 16 * 12, 3)  # a band of three between the towers
    # Tower a's ramp begins at -1 in the red plane and ends at 1 in the blue one; tower b's is the negative.
    assert (small[0, 0, 0], small[10, 10, 2]) == (0, 255)
    assert (small[39, 0, 0], small[49, 10, 2]) == (255, 0)


def test_filters_are_drawn_for_one_tower_and_next_to_a_damaged_file(tmp_path):
    run = make_run(tmp_path / "run")
    (tower_b,) = run.glob("checkpoints/*/tower_b.safetensors")
    tower_b.write_bytes(b"half")
    one = Image.open(io.BytesIO(watch.filters(run)))
    assert one.size == (16 * 12 * watch.SCALE, 3 * 12 * watch.SCALE)
    tower_b.unlink()
    assert Image.open(io.BytesIO(watch.filters(run))).size == one.size
    (tower_b.parent / "tower_a.safetensors").unlink()
    assert watch.filters(run) is None


@pytest.mark.parametrize(
    "tensor",
    [
        {"conv1.weight": np.zeros(5, np.float32)},
        {"conv1.weight": np.zeros((4, 1, 3, 3), np.float32)},
        {"conv1.weight": np.zeros((0, 3, 3, 3), np.float32)},
        {"other": np.zeros(5, np.float32)},
    ],
)
def test_a_tower_without_filters_of_three_colours_is_left_out(tensor, tmp_path):
    run = make_run(tmp_path / "run")
    for path in run.glob("checkpoints/*/tower_?.safetensors"):
        safetensors.numpy.save_file(tensor, path)
    assert watch.filters(run) is None


def test_the_page_is_told_when_filters_have_not_formed(tmp_path):
    run = make_run(tmp_path / "run")
    (tower_b,) = run.glob("checkpoints/*/tower_b.safetensors")
    noise = np.random.default_rng(0).standard_normal((48, 3, 11, 11), np.float32)
    safetensors.numpy.save_file({"conv1.weight": noise}, tower_b)
    found = LiveRun(run).status()["filters"]
    assert found["towers"]["a"]["correlation"] > 0.5
    assert found["towers"]["b"]["correlation"] == pytest.approx(0, abs=0.05)
    assert found["warning"].startswith("The filters of tower b have not formed")


def test_the_filters_are_measured_again_for_each_checkpoint(tmp_path):
    run = make_run(tmp_path / "run")
    live = LiveRun(run)
    assert live.status()["filters"] is live.status()["filters"]
    add_checkpoint(run, 30)
    for path in run.glob("checkpoints/step-00000030/tower_?.safetensors"):
        path.write_bytes(b"half")
    assert live.status()["filters"] == {"towers": {}, "warning": None}


def test_a_folder_that_is_no_run_is_a_clear_error(tmp_path):
    done = start("python", "-m", "trainer.watch", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert "is not the folder of a run" in done.stderr
    assert "Traceback" not in done.stderr
