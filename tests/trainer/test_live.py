"""What the live page shows of runs whose logs grow, are replaced, or are damaged."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage import damaged
from trainer.commands import live
from trainer.commands.live import POINTS, Curve, LiveRun, LiveRuns
from trainer.recipes import AUTO, settle
from trainer.runs import run_folder


def step_line(step):
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 1 / step,
        "lr": 0.5,
        "images_per_second": 64.0,
        "time": step,
    }


START = {"step": 0, "ranks": 4, "device": "cpu", "last_step": 40, "time": 0.5}
ERRORS = {"step": 20, "epoch": 2, "val_top1_error": 0.5, "val_top5_error": 0.25, "time": 22}


def text(*lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def run(tmp_path):
    config, _ = settle(AUTO, 320)  # batches of 32 images
    run_folder.write_config(tmp_path / "run", config, "fingerprint")
    (tmp_path / "run" / run_folder.LOG).write_text(text(START, step_line(10), step_line(20), ERRORS))
    return tmp_path / "run"


@pytest.fixture
def always_fresh(monkeypatch):
    monkeypatch.setattr(live, "FRESH", 0.0)


def asked(runs):
    return json.loads(runs.body())["runs"]


def test_lines_that_are_appended_appear_and_half_a_line_waits(run):
    live_run = LiveRun(run)
    found = live_run.status()
    assert (found["step"], found["epoch"], found["last_step"]) == (20, 2.0, 40)
    assert found["seconds_left"] == (40 - 20) * 32 / 64
    assert found["training"]["loss"] == [0.1, 0.05]
    assert found["validation"] == {"epoch": [2.0], "val_top1_error": [0.5], "val_top5_error": [0.25]}
    half, rest = text(step_line(25))[:20], text(step_line(25))[20:]
    for piece, losses in ((half, [0.1, 0.05]), (rest, [0.1, 0.05, 0.04])):
        with (run / run_folder.LOG).open("a") as file:
            file.write(piece)
        found = live_run.status()
        assert found["training"]["loss"] == losses
        assert found["unreadable_lines"] == 0
    assert (found["step"], found["ranks"], found["device"]) == (25, 4, "cpu")


def test_a_log_that_was_replaced_is_shown_anew(run):
    live_run = LiveRun(run)
    live_run.status()
    new = run / "new"
    new.write_text(text(START, "no line", step_line(5)))  # the run was continued from an earlier checkpoint
    new.replace(run / run_folder.LOG)
    found = live_run.status()
    assert (found["step"], found["training"]["loss"], found["validation"]["epoch"]) == (5, [0.2], [])
    assert found["unreadable_lines"] == 1
    (run / run_folder.LOG).unlink()
    found = live_run.status()
    assert (found["step"], found["training"]["loss"], found["unreadable_lines"]) == (0, [], 0)


def test_a_run_with_an_empty_log_is_shown(run):
    (run / run_folder.LOG).write_text("")
    found = LiveRun(run).status()
    assert (found["step"], found["images_per_second"], found["complete"]) == (0, None, False)


def test_a_log_is_read_in_pieces_and_shown_whole(run, monkeypatch):
    expected = LiveRun(run).status()
    monkeypatch.setattr(live, "PIECE", 50)  # bytes, fewer than a line has
    found = LiveRun(run).status()
    assert found | {"seconds_since_line": 0} == expected | {"seconds_since_line": 0}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (run_folder.CONFIG, b"[]", "is not an object"),
        (run_folder.CONFIG, b"\xff", "is not UTF-8 text"),
        (run_folder.CONFIG, b'{"config": {"optim": {"epochs": "8"}}}', "optim.epochs"),
        (run_folder.CONFIG, None, "is not the folder of a run"),
        (run_folder.LOG, None, "cannot be read (Is a directory)"),
    ],
)
@pytest.mark.usefixtures("always_fresh")
def test_a_bad_run_is_a_row_that_says_so_beside_a_good_one(run, tmp_path, name, content, words):
    bad = tmp_path / "bad"
    run_folder.write_config(bad, AUTO, "fingerprint")
    (bad / name).unlink(missing_ok=True)
    if content is not None:
        (bad / name).write_bytes(content)
    elif name == run_folder.LOG:
        (bad / name).mkdir()
    runs = LiveRuns([bad, run])
    for _ in range(2):
        error, good = asked(runs)
        assert error["name"] == "bad"
        assert words in error["error"]
        assert good["step"] == 20
    with (run / run_folder.LOG).open("a") as file:
        file.write(text(step_line(25)))
    assert asked(runs)[1]["step"] == 25


def test_all_browsers_get_the_same_bytes_and_the_files_are_read_once(run, monkeypatch):
    monkeypatch.setattr(live, "FRESH", 1e9)
    runs = LiveRuns([run])
    first = runs.body()
    (run / run_folder.LOG).unlink()
    assert all(runs.body() is first for _ in range(8))


def test_long_curves_are_thinned_by_means():
    curve = Curve("epoch", "loss")
    lines = [{"step": s, "epoch": float(s), "loss": float(s % 2)} for s in range(4 * POINTS)]
    for first in range(0, len(lines), 100):
        curve.add([*lines[first : first + 100], {"step": 1, "epoch": 3.0}])
    found = curve.points()
    assert len(found["loss"]) == POINTS
    assert set(found["loss"]) == {0.5}
    assert found["epoch"][:2] == [1.5, 5.5]


@pytest.mark.parametrize("count", [0, 1, POINTS, POINTS + 1, 2 * POINTS - 1])
def test_a_curve_of_any_length_keeps_its_mean_and_its_order(count):
    curve = Curve("epoch", "loss")
    curve.add([{"epoch": e, "loss": 3.0} for e in range(count)])
    found = curve.points()
    assert len(found["epoch"]) == min(count, POINTS)
    assert found["epoch"] == sorted(found["epoch"])
    assert set(found["loss"]) <= {3.0}


@pytest.mark.usefixtures("always_fresh")
@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_runs_files_hold_the_page_gets_an_answer(run, data):
    runs = LiveRuns([run])
    log, config = run / run_folder.LOG, run / run_folder.CONFIG
    whole = {path: path.read_bytes() for path in (log, config)}
    changed = data.draw(st.sampled_from([log, config]))
    lines = whole[changed].splitlines(keepends=True) if changed == log else [whole[changed]]
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = data.draw(damaged(lines[place].rstrip())) + b"\n"
    for content in (whole[changed], b"".join(lines), whole[changed]):
        changed.write_bytes(content)
        (answer,) = asked(runs)
        assert answer["name"] == "run"
