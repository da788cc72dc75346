"""Fine-tuning: what a run takes from a trained network, what is new, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from preprocess.store import open_store
from tests.launch import ROOT, ranks
from tests.trainer.in_process import command
from tests.trainer.runs.test_training_set import draw_store
from tests.weights import narrow_alexnet
from trainer import evaluate
from trainer.cli import parse_config
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.runs import run_folder
from trainer.runs.training_set import TrainingSet, as_seen
from trainer.training import fine_tuning, loop

STILL = ("--lr", "1e-30")
"""A step changes no weight: the spacing of float32 numbers above 1e-12 is above 1e-20."""
LENGTH = ("--batch-size", "4", "--precision", "float32", "--no-figures")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A store of four colours, whose names are no classes of the tiny store."""
    return draw_store(tmp_path_factory.mktemp("others"), ("red", "green", "blue", "yellow"))


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    assert command("export", small_run, "--to", folder, "--no-onnx", cwd=ROOT).returncode == 0
    return folder / "alexnet.safetensors"


def fine_tune(initial, store, folder, *flags, size=1):
    words = list(map(str, ("--init-from", initial, "--store", store, "--run", folder, *LENGTH, *flags)))
    if size > 1:
        return ranks(size, "-m", "trainer.run", *words, cwd=ROOT)
    return command("run", *words, cwd=ROOT)


def fine_tuned(initial, store, folder, *flags, size=1):
    """The output of a start that succeeds."""
    done = fine_tune(initial, store, folder, *flags, size=size)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refusal(initial, store, folder, *flags):
    """The message of a start that is refused, and leaves nothing behind."""
    done = fine_tune(initial, store, folder, *flags)
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: ")
    assert not folder.exists()
    return done.stderr


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    files = {t: safetensors.numpy.load_file(checkpoint / f"tower_{t}.safetensors") for t in "ab"}
    return {f"{t}.{n}": w for t, of in files.items() for n, w in of.items() if not n.startswith("momentum.")}


def best(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / "best").read_text()


@pytest.mark.parametrize(("kind", "size"), [("run", 1), ("checkpoint", 2), ("export", 1), ("run", 4)])
def test_the_weights_are_the_networks_to_the_bit(kind, size, small_run, exported, tiny_store, tmp_path):
    initial = {"run": small_run, "checkpoint": best(small_run), "export": exported}[kind]
    text = fine_tuned(initial, tiny_store, tmp_path / "run", "--max-steps", 1, *STILL, size=size)
    assert "all layers are its own, with its 10 classes" in text.replace("\n", " ")
    before, after = weights(best(small_run)), weights(tmp_path / "run/checkpoints/step-00000001")
    assert before.keys() == after.keys()
    for name, w in after.items():
        np.testing.assert_allclose(w, before[name], rtol=0, atol=1e-20, err_msg=name)
    state = json.loads((tmp_path / "run/checkpoints/step-00000001/state.json").read_text())
    name = "alexnet.safetensors" if kind == "export" else f"small/{best(small_run).name}"
    step, fingerprint = int(best(small_run).name[5:]), open_store(tiny_store).fingerprint
    assert state["init_from"] == {"name": name, "step": step, "fingerprint": fingerprint}


@pytest.mark.parametrize("size", [1, 2])
def test_for_new_classes_fc8_alone_is_drawn_anew(size, small_run, others, tmp_path):
    flags = ("--classes", "new", "--max-steps", 1, *STILL)
    text = fine_tuned(small_run, others, tmp_path / "run", *flags, size=size)
    assert "conv1 to fc7 are its own, fc8 is new for 4 classes; its mean image" in text.replace("\n", " ")
    before, after = weights(best(small_run)), weights(tmp_path / "run/checkpoints/step-00000001")
    for name, w in after.items():
        if ".fc8." not in name:
            np.testing.assert_allclose(w, before[name], rtol=0, atol=1e-20, err_msg=name)
    drawn = np.concatenate([after[f"{t}.fc8.weight"].ravel() for t in "ab"])
    assert drawn.size == 4 * 64
    # As the network's own was, --init scaled: 3 sqrt(2 / 64 inputs) / sqrt(1 - 0.5); 256 numbers give it
    # within a fifth, four and a half standard errors.
    assert drawn.std() == pytest.approx(0.75, rel=0.2)
    assert abs(after["a.fc8.bias"]).max() < 1e-20


def test_other_classes_are_refused_and_the_remedy_works(small_run, others, tmp_path):
    message = refusal(small_run, others, tmp_path / "run", "--max-steps", 1)
    assert "has 4 classes, and" in message
    assert "has 10, 0 of them by the same name: add --classes new" in message
    fine_tuned(small_run, others, tmp_path / "run", "--max-steps", 1, "--classes", "new")


def test_classes_in_another_order_are_matched_by_name(small_run, tiny_store):
    store = open_store(tiny_store)
    turned = dataclasses.replace(store, classes=store.classes[::-1])
    config = parse_config(["--init-from", str(small_run)])
    towers, plain = (fine_tuning.read(config, s).towers for s in (turned, store))
    for tower, other in zip(towers, plain, strict=True):
        assert torch.equal(tower["fc8.weight"], other["fc8.weight"].flip(0))
        assert torch.equal(tower["fc7.weight"], other["fc7.weight"])
    assert torch.equal(towers[0]["fc8.bias"], plain[0]["fc8.bias"].flip(0))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--lrn-k", "1"), "--lrn-k is 2.0 there, 1.0 here"),
        (("--towers", "1"), "--towers is 2 there, 1 here"),
        (("--hidden", "16"), "--hidden is 32 there, 16 here"),
        (("--divisor", "1"), "--divisor is 60.0 there, 1.0 here"),
        (("--crop-size", "227"), "--crop-size is 224 there, 227 here"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(flags, named, small_run, tiny_store, tmp_path):
    message = refusal(small_run, tiny_store, tmp_path / "run", *flags)
    assert named in message
    assert "Leave these flags out" in message


def test_another_dropout_leaves_the_network_in_evaluation_as_it_was(small_run, tiny_store, tmp_path):
    flags = ("--dropout", "0.2", "--color-std", "0", "--max-steps", 1, *STILL)
    text = fine_tuned(small_run, tiny_store, tmp_path / "run", *flags)
    assert "the weights after dropout times 0.625 for --dropout 0.2" in text.replace("\n", " ")
    x_BCHW = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    before, after = (load(run, device="cpu").logits(x_BCHW) for run in (small_run, tmp_path / "run"))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_the_mean_image_of_the_network_travels(small_run, others, tmp_path, monkeypatch):
    initial, folder = shutil.copytree(small_run, tmp_path / "initial"), tmp_path / "run"
    subtracted, batches = [], loop.TrainingBatches

    def seen(store, *arguments):
        subtracted.append(store.mean)
        return batches(store, *arguments)

    monkeypatch.setattr(loop, "TrainingBatches", seen)
    mean, own = load(small_run, device="cpu").mean_SS3, open_store(others)
    assert abs(mean - own.mean).max() > 20
    fine_tuned(initial, others, folder, "--classes", "new", "--max-steps", 2, "--lr", "0.01")
    shutil.rmtree(initial)  # what is continued needs it no more
    done = command("run", "--run", folder, "--max-steps", 4, cwd=ROOT)
    assert "continuing from step 2" in done.stdout
    assert len(subtracted) == 2
    assert all(np.array_equal(m, mean) for m in subtracted)
    saved = TrainingSet.read(folder / "checkpoints" / "step-00000004")
    assert saved is not None
    assert np.array_equal(saved.mean_SS3, mean)
    assert (saved.classes, saved.fingerprint) == (own.classes, own.fingerprint)
    assert json.loads((folder / "checkpoints/step-00000004/state.json").read_text())["init_from"]
    assert np.array_equal(as_seen(own, saved)[0].mean, mean)
    evaluate.main(["--run", str(folder), "--checkpoint", "latest", "--json", str(tmp_path / "errors.json")])
    guesses = load(folder, "latest", "cpu").probabilities(own.val.read(np.arange(len(own.val)))).argmax(1)
    error = json.loads((tmp_path / "errors.json").read_text())["top1_error"]
    assert error == np.mean(guesses != own.val.labels)


def test_a_bare_command_continues_and_another_network_is_refused(
    small_run, exported, others, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = ("--store", others, *LENGTH, "--classes", "new", "--epochs", 2, "--log-every", "100")
    bare = ("run", "--init-from", small_run, *flags)
    assert command(*bare, "--max-steps", 1, cwd=tmp_path).returncode == 0
    (tmp_path / "runs/auto-001/complete").unlink()
    assert "continuing from step 1" in command(*bare, "--max-steps", 2, cwd=tmp_path).stdout
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["auto-001"]
    assert run_folder.read_config(tmp_path / "runs/auto-001").run.init_from == small_run
    done = command("run", "--init-from", exported, "--run", "runs/auto-001", *flags, cwd=tmp_path)
    assert f"--init-from was {small_run}, now {exported}" in done.stderr


def test_a_dry_run_names_the_network_and_writes_nothing(small_run, others, tmp_path):
    assert "add --classes new" in refusal(small_run, others, tmp_path / "run", "--dry-run")
    text = fine_tuned(small_run, others, tmp_path / "run", "--dry-run", "--classes", "new")
    assert f"would be a new run, which begins with {best(small_run)}" in text.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_the_model_card_says_what_was_fine_tuned(small_run, others, tmp_path):
    fine_tuned(small_run, others, tmp_path / "run", "--classes", "new", "--max-steps", 1)
    command("export", tmp_path / "run", "--to", tmp_path / "to", "--no-onnx", cwd=ROOT)
    card = (tmp_path / "to" / "README.md").read_text()
    assert f"fine-tuned from small/{best(small_run).name} on 4 classes" in card
    assert str(small_run) not in card


def test_one_start_has_one_network(small_run, tiny_store, tmp_path):
    message = refusal(small_run, tiny_store, tmp_path / "run", "--resume", best(small_run))
    assert "name two networks for the start" in message


def test_another_programs_weights_are_made_a_run_first(others, tmp_path):
    np.savez(tmp_path / "caffe.npz", **narrow_alexnet(classes=4))
    message = refusal(tmp_path / "caffe.npz", others, tmp_path / "run")
    assert "python -m trainer.import_weights" in message
    flags = ("--run", tmp_path / "caffe", "--store", others, "--channels", "bgr")
    assert command("import_weights", tmp_path / "caffe.npz", *flags, cwd=ROOT).returncode == 0
    fine_tuned(tmp_path / "caffe", others, tmp_path / "run", "--max-steps", 1)


def test_classes_new_needs_a_network(capsys):
    with pytest.raises(UserError, match="add --init-from"):
        parse_config(["--classes", "new"])


def test_the_recipe_keeps_what_is_not_the_networks(small_run):
    config = parse_config(["--init-from", str(small_run), "--recipe", "cuda-convnet"])
    trained = run_folder.read_config(small_run)
    assert config.network == trained.network
    assert (config.augment.divisor, config.augment.mean_window) == (60.0, "crop")
    assert (config.augment.crop_group, config.optim.bias_lr, config.optim.lr) == (32, 2.0, 0.01)
