from collections.abc import Callable

import pytest

from preprocess.shared import progress


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds pass."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def add(seconds: float) -> None:
        now[0] += seconds

    return add


def test_a_log_gets_whole_lines_and_no_carriage_returns(
    capfd: pytest.CaptureFixture[str], wait: Callable[[float], None]
) -> None:
    lines = progress.images(1000, 200, "mine")
    for _ in range(4):
        wait(6)
        lines.update(100)
        lines.set_postfix(loss="2.303")
    lines.close()
    written = capfd.readouterr().err
    assert "\r" not in written
    # 12 s after the start and 12 s after that, 200 images each; nothing new is there at the end
    first, second = written.splitlines()
    assert first.startswith("mine: 40 %, 400 of 1.00k, 00:12 elapsed, 00:36 left, 16.7img/s")
    assert second.endswith("00:24 elapsed, 00:24 left, 16.7img/s, loss 2.303")


def test_other_units_and_an_unknown_total_are_shown(
    capfd: pytest.CaptureFixture[str], wait: Callable[[float], None]
) -> None:
    for unit, total in (("B", 4_000_000), (" members", None)):
        lines = progress.counter(unit, total, "mine")
        wait(20)
        lines.update(2_000_000)
        lines.close()
    of_bytes, of_members = capfd.readouterr().err.splitlines()
    assert of_bytes == "mine: 50 %, 2.00M of 4.00M, 00:20 elapsed, 00:20 left, 100kB/s"
    assert of_members == "mine: 2.00M members [00:20, 100k members/s]"


def test_leave_decides_whether_the_final_count_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    for leave in (True, False):
        lines = progress.images(10, 0, f"leave {leave}", leave=leave)
        lines.update(10)
        lines.close()
    written = capfd.readouterr().err
    assert written.startswith("leave True: 100 %, 10.0 of 10.0")
    assert "leave False" not in written


def test_ranks_that_are_not_shown_write_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silent = progress.images(10, 0, "mine", shown=False)
    silent.update(10)
    silent.close()
    assert capfd.readouterr() == ("", "")
