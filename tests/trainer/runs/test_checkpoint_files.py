"""Which checkpoint is chosen, which damage is named, and what is read. The tests write the files."""

import hashlib
import importlib.metadata
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage import damaged
from trainer.errors import UserError
from trainer.runs import checkpoint

STATE = {"schedule": {"best_error": None, "epochs_without": 0, "falls": 0}}
TOWER = {"conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "conv1.bias": np.ones(2, np.float32)}


def write(folder: Path, name: str | int, error: float | None = None, **state: object) -> Path:
    """A whole checkpoint of one tower; `error` is its top-1 error."""
    path = folder / (name if isinstance(name, str) else f"step-{name:08d}")
    path.mkdir(parents=True)
    step = int(path.name.rpartition("-")[2])
    files = {
        "tower_a.safetensors": safetensors.numpy.save(TOWER),
        "state.json": json.dumps({"step": step, **STATE, **state}).encode(),
    }
    for file, data in files.items():
        (path / file).write_bytes(data)
    sums = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    (path / "manifest.json").write_text(json.dumps({"sha256": sums}))
    if error is not None:
        errors = {"images": 1000, "top1_error": error, "top1_wrong": round(1000 * error), "top5_wrong": 0}
        (path / "validation.json").write_text(json.dumps(errors))
    return path


def damage(path: Path) -> None:
    (path / "tower_a.safetensors").write_bytes(b"half")


def tried(run: Path, which: str) -> list[int]:
    """The steps in the order in which `find` tries them: each one is damaged once it was found."""
    steps = []
    for _ in checkpoint.own(run / "checkpoints"):
        found, remarks = checkpoint.find(run, which)
        damaged = [re.findall(r"step-(\d+) is damaged", remark) for remark in remarks]
        assert damaged == [[f"{step:08d}"] for step in steps]
        steps.append(found.step)
        damage(found.path)
    with pytest.raises(UserError, match="No sound checkpoint is left"):
        checkpoint.find(run, which)
    return steps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoints"
    made.mkdir()
    return made


def test_checkpoints_are_ordered_by_step_and_other_folders_are_not_counted(
    folder: Path, tmp_path: Path
) -> None:
    assert not checkpoint.exists(tmp_path)
    for name in (
        "step-0000001",
        "step-00000001-copy",
        "my-step-00000001",
        ".step-00000002.partial",
        "step-best",
    ):
        (folder / name).mkdir()
    assert checkpoint.own(folder) == []
    assert not checkpoint.exists(tmp_path)
    for step in (100_000_000, 99_999_999, 3):
        (folder / checkpoint.name_of(step)).mkdir()
    names = ["step-00000003", "step-99999999", "step-100000000"]
    assert [path.name for path in checkpoint.own(folder)] == names
    assert list(map(checkpoint.step_of, names)) == [3, 99_999_999, 100_000_000]
    assert checkpoint.exists(tmp_path)


def test_a_marker_that_is_missing_or_empty_names_nothing(folder: Path) -> None:
    assert checkpoint.named(folder, "latest") is None
    for text, name in (("", None), (" \n", None), ("step-00000003\n", "step-00000003")):
        (folder / "latest").write_text(text)
        assert checkpoint.named(folder, "latest") == name


def test_the_run_of_a_checkpoint_is_above_its_checkpoints_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert checkpoint.run_of(run / "checkpoints" / "step-00000003") == run
    assert checkpoint.run_of(run / "checkpoints" / "set-aside-001" / "step-00000003") == run
    with pytest.raises(UserError, match="is not a checkpoint within a run: RUN/checkpoints/step-NNNNNNNN"):
        checkpoint.run_of(run / "step-00000003")


def test_latest_goes_back_from_the_named_one_and_tries_those_of_another_branch_last(
    folder: Path, tmp_path: Path
) -> None:
    for step in (1, 2, 3, 4, 5):
        write(folder, step)
    (folder / "latest").write_text("step-00000003")
    assert tried(tmp_path, "latest") == [3, 2, 1, 5, 4]


@pytest.mark.parametrize("marker", [None, "step-00000009", "step-0000000x"])
def test_without_a_right_marker_the_latest_is_the_newest(
    folder: Path, tmp_path: Path, marker: str | None
) -> None:
    for step in (1, 2, 3):
        write(folder, step)
    if marker:
        (folder / "latest").write_text(marker)
    assert tried(tmp_path, "latest") == [3, 2, 1]


def test_best_goes_by_error_then_the_newest_and_those_without_an_error_come_last(
    folder: Path, tmp_path: Path
) -> None:
    for step, error in ((1, 0.5), (2, 0.25), (3, 0.25), (4, 1.0), (5, None), (6, 0.5), (7, 0.25), (8, None)):
        write(folder, step, error)
    (folder / "best").write_text("step-00000001")  # errors count, the marker does not
    assert checkpoint.best_of(folder) == "step-00000002"  # of equal ones the earliest
    assert tried(tmp_path, "best") == [2, 7, 3, 6, 1, 4, 8, 5]


def test_without_any_error_the_best_is_the_marked_one_if_it_is_there(folder: Path) -> None:
    assert checkpoint.best_of(folder) is None
    for step in (1, 2):
        write(folder, step)
    assert checkpoint.best_of(folder) is None
    (folder / "best").write_text("step-00000001")
    assert checkpoint.best_of(folder) == "step-00000001"
    (folder / "best").write_text("step-00000009")
    assert checkpoint.best_of(folder) is None


def test_the_error_that_version_0_1_kept_in_the_state_counts(folder: Path) -> None:
    write(folder, 1, best={"top1_error": 0.125})
    write(folder, 2, 0.25, best={"top1_error": 0.5})
    write(folder, 3, best=None)
    assert checkpoint.recorded_errors(folder) == {"step-00000002": 0.25}  # no marker names the first one
    for step, errors in ((1, {1: 0.125, 2: 0.25}), (2, {2: 0.25}), (3, {2: 0.25}), (9, {2: 0.25})):
        (folder / "best").write_text(f"step-{step:08d}")
        expected = {f"step-{number:08d}": error for number, error in errors.items()}
        assert checkpoint.recorded_errors(folder) == expected


def test_a_validation_that_lacks_a_number_or_cannot_be_read_is_none(folder: Path) -> None:
    path = write(folder, 1, 0.25)
    whole = checkpoint.recorded_validation(path)
    assert whole == {"images": 1000, "top1_error": 0.25, "top1_wrong": 250, "top5_wrong": 0}
    for name in whole:
        rest = {key: value for key, value in whole.items() if key != name}
        (path / "validation.json").write_text(json.dumps(rest))
        assert checkpoint.recorded_validation(path) is None, name
    for spoil in (lambda file: file.write_text('{"images": 10'), Path.unlink):
        spoil(path / "validation.json")
        assert checkpoint.recorded_validation(path) is None


def leave_out(path: Path, name: str) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"][name]
    (path / "manifest.json").write_text(json.dumps(manifest))


def make_folder_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rewrite(path: Path, name: str, text: str) -> None:
    """Replace a file of a checkpoint, and its checksum with it."""
    (path / name).write_text(text)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (shutil.rmtree, "it does not exist"),
        (lambda path: (path / "manifest.json").unlink(), "its manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("{"), "its manifest.json is not JSON"),
        (lambda path: (path / "manifest.json").write_text("{}"), "its manifest.json has no sha256"),
        (lambda path: (path / "tower_a.safetensors").unlink(), "tower_a.safetensors is missing"),
        (
            lambda path: leave_out(path, "tower_a.safetensors"),
            "tower_a.safetensors is missing in its manifest.json",
        ),
        (lambda path: leave_out(path, "state.json"), "state.json is missing in its manifest.json"),
        (lambda path: make_folder_of(path / "state.json"), "state.json cannot be read (Is a directory)"),
        (damage, "tower_a.safetensors does not match its checksum"),
        (lambda path: make_folder_of(path / "manifest.json"), "its manifest.json is a folder, not a file"),
        (lambda path: (path / "manifest.json").write_text("[]"), "its manifest.json is not an object"),
        (lambda path: rewrite(path, "state.json", "null"), "its state.json is not an object"),
        (lambda path: rewrite(path, "state.json", '{"step": 1}'), "its state.json has no schedule"),
        (
            lambda path: rewrite(path, "state.json", json.dumps({**STATE, "step": "1"})),
            'its state.json has step = "1", which is not a whole number',
        ),
    ],
)
def test_each_damage_has_a_sentence(folder: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    path = write(folder, 1)
    assert checkpoint.check(path) is None
    assert checkpoint.verified(path).state == {"step": 1, **STATE}
    spoil(path)
    assert checkpoint.check(path) == sentence
    with pytest.raises(UserError, match=re.escape(f"The checkpoint {path} cannot be used: {sentence}.")):
        checkpoint.find(folder.parent, str(path))


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"step": ', "[" * 100_000, '"\\ud800"'])
def test_a_newest_one_without_what_its_files_must_hold_is_left_out_for_the_one_before(
    folder: Path, name: str, text: str
) -> None:
    write(folder, 1)
    newest = write(folder, 2)
    if name == "manifest.json":
        (newest / name).write_text(text)
    else:
        rewrite(newest, name, text)
    found, (remark,) = checkpoint.find(folder.parent)
    assert found.path.name == "step-00000001"
    assert remark.startswith(f"The checkpoint {newest} is damaged and left out: its {name} ")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b"../../step-00000001", b"step-1", b"\0"])
def test_a_marker_that_names_no_checkpoint_is_as_one_that_is_missing(folder: Path, content: bytes) -> None:
    path = write(folder, 1)
    for marker in ("latest", "best", "sound"):
        (folder / marker).write_bytes(content)
        assert checkpoint.named(folder, marker) is None
    assert checkpoint.find(folder.parent)[0].path == checkpoint.find(folder.parent, "best")[0].path == path
    assert checkpoint.before_divergence(folder.parent) is None


same = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@same
@given(
    name=st.sampled_from(["manifest.json", "state.json", "validation.json", "latest", "best"]), data=st.data()
)
def test_any_content_of_the_small_files_is_read_or_passed_over(
    folder: Path, name: str, data: st.DataObject
) -> None:
    for step in (1, 2):
        if not (folder / f"step-{step:08d}").exists():
            write(folder, step, 0.5)
    newest = folder / "step-00000002"
    file = folder / name if "." not in name else newest / name
    whole = file.read_bytes() if file.exists() else b"step-00000002"
    file.write_bytes(data.draw(damaged(whole)))
    try:
        for which in ("latest", "best"):
            assert checkpoint.find(folder.parent, which)[0].step in (1, 2)
        checkpoint.before_divergence(folder.parent)
    finally:
        file.write_bytes(whole)


def test_a_file_that_only_the_manifest_names_is_missed(folder: Path) -> None:
    path = write(folder, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["training_set.safetensors"] = "0"
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.check(path) == "training_set.safetensors is missing"


def test_a_run_without_checkpoints_is_told_how_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has no checkpoint yet; train it with: .* --run {tmp_path}"):
        checkpoint.find(tmp_path)


def test_before_divergence_is_the_newest_undamaged_one_up_to_the_sound_one(
    folder: Path, tmp_path: Path
) -> None:
    paths = [write(folder, step) for step in (1, 2, 3, 4)]
    assert checkpoint.before_divergence(tmp_path) is None  # none was proven sound
    (folder / "sound").write_text("step-00000003")
    for expected in (paths[2], paths[1], paths[0]):
        assert checkpoint.before_divergence(tmp_path) == expected
        damage(expected)
    assert checkpoint.before_divergence(tmp_path) is None
    (folder / "sound").write_text("step-00000009")  # removed since
    assert checkpoint.before_divergence(tmp_path) == paths[3]


def empty_tensors() -> dict[str, torch.Tensor]:
    return {name: torch.full(array.shape, -1.0) for name, array in TOWER.items()}


class Broadcasts:
    """The first rank's communicator records what it sends; the other rank's gives it back, in order."""

    def __init__(self, rank: int, size: int, sent: list) -> None:
        self.rank, self.size, self.sent = rank, size, sent

    def bcast(self, value):
        return self._pass(value)

    def Bcast(self, array):  # noqa: N802
        array[...] = self._pass(array.copy())

    def _pass(self, value):
        if self.rank:
            return self.sent.pop(0)
        self.sent.append(value)
        return value


def test_the_first_rank_reads_and_the_others_get_its_arrays(folder: Path) -> None:
    found, sent = checkpoint.verified(write(folder, 1)), []
    for rank in (0, 1):
        tensors = empty_tensors()
        checkpoint.load(found, "a", tensors, Broadcasts(rank, 2, sent))
        for name, array in TOWER.items():
            assert np.array_equal(tensors[name].numpy(), array)
        shutil.rmtree(found.path, ignore_errors=True)  # the other rank's host does not see the file
    assert sent == []


def test_a_rank_alone_in_its_tower_sends_only_whether_it_failed(folder: Path) -> None:
    found, sent, tensors = checkpoint.verified(write(folder, 1)), [], empty_tensors()
    checkpoint.load(found, "a", tensors, Broadcasts(0, 1, sent))
    assert sent == [None]
    assert np.array_equal(tensors["conv1.weight"].numpy(), TOWER["conv1.weight"])


def test_a_file_that_cannot_be_read_is_the_same_sentence_on_every_rank(folder: Path) -> None:
    found, sent = checkpoint.verified(write(folder, 1)), []
    for rank in (0, 1):
        with pytest.raises(UserError, match=r"tower_b\.safetensors cannot be read"):
            checkpoint.load(found, "b", empty_tensors(), Broadcasts(rank, 2, sent))
    damage(found.path)
    with pytest.raises(UserError, match=r"tower_a\.safetensors cannot be read"):
        checkpoint.load(found, "a", empty_tensors())


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("conv1.weight", (3, 2), r"conv1\.weight of shape \(2, 3\), this network has \(3, 2\)"),
        ("fc9.bias", (4,), r"fc9\.bias of shape none, this network has \(4,\)"),
    ],
)
def test_a_file_that_does_not_fit_the_network_changes_no_tensor(
    folder: Path, name: str, shape: tuple[int, ...], sentence: str
) -> None:
    found, tensors = checkpoint.verified(write(folder, 1)), empty_tensors()
    tensors[name] = torch.full(shape, -1.0)
    with pytest.raises(UserError, match=sentence):
        checkpoint.load(found, "a", tensors)
    assert all((tensor == -1).all() for tensor in tensors.values())


def test_a_checkpoint_records_the_versions_of_four_packages() -> None:
    assert checkpoint.versions() | {"trainer": ""} == {
        "trainer": "",
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": importlib.metadata.version("torch"),
        "numpy": importlib.metadata.version("numpy"),
    }
