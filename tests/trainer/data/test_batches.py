"""Each image once an epoch, the same order for any number of pairs, the same batch after a resume."""

import hashlib
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from preprocess.plan import IMAGE_SIZES
from preprocess.store import open_store
from tests.stores import make_store_of_size
from tests.trainer.in_process import command
from trainer.config import AugmentConfig
from trainer.data import augmentation
from trainer.data.batches import TrainingBatches, epoch_order, evaluation_batches, open_data
from trainer.data.input_pipeline import BufferPool
from trainer.errors import UserError
from trainer.kernels import CROP
from trainer.runs.training_set import TrainingSet

PLAIN = AugmentConfig(crops=False, flips=False, color_std=0.0)


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_data(tiny_store)


def batches(store, size, positions, first=0, last=20, settings=PLAIN, seed=0):
    return TrainingBatches(store, settings, seed, size, torch.as_tensor(positions), first, last)


def test_an_epoch_is_a_permutation_and_the_next_one_another():
    first, second = epoch_order(0, 0, 1000), epoch_order(0, 1, 1000)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first == second).mean() < 0.02


def test_every_image_comes_once_an_epoch_though_batches_cross_its_end(store):
    # 60 images in batches of 16: epochs end inside of batches; 15 batches are 4 epochs.
    loader = batches(store, 16, range(16), last=15)
    labels = torch.cat([b.labels_B for b in loader]).numpy()
    loader.close()
    for epoch in range(4):
        expected = store.train.labels[epoch_order(0, epoch, 60)]
        assert np.array_equal(labels[60 * epoch : 60 * epoch + 60], expected)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_any_number_of_ranks_sees_each_image_once_an_epoch_in_one_order(store, ranks):
    pairs = max(1, ranks // 2)
    loaders = [
        batches(store, 16, range(16 // pairs * p, 16 // pairs * (p + 1)), last=0) for p in range(pairs)
    ]
    # What a step is made of, from all pairs, without reading a pixel: 15 steps of 16 are 4 epochs of 60.
    seen = np.concatenate([loader.plan(step)[0] for step in range(15) for loader in loaders])
    epochs = seen.reshape(4, 60)
    for epoch, order in enumerate(epochs):
        assert sorted(order) == list(range(60))
        assert np.array_equal(order, epoch_order(0, epoch, 60))
    assert len({order.tobytes() for order in epochs}) == 4
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("pairs", [2, 4])
def test_pairs_divide_the_very_batch_of_one_process(store, pairs):
    settings = AugmentConfig()
    whole = batches(store, 16, range(16), last=5, settings=settings)
    parts = [
        batches(store, 16, range(16 // pairs * p, 16 // pairs * (p + 1)), last=5, settings=settings)
        for p in range(pairs)
    ]
    for together, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(together.images_BCHW, torch.cat([s.images_BCHW for s in shares]))
        assert torch.equal(together.labels_B, torch.cat([s.labels_B for s in shares]))
    for loader in (whole, *parts):
        loader.close()


def test_a_resumed_loader_gives_the_batches_that_were_left(store):
    settings = AugmentConfig()
    whole, rest = (batches(store, 16, range(16), first=f, last=9, settings=settings) for f in (0, 6))
    kept = [b for b in whole if b.step >= 6]
    for before, after in zip(kept, rest, strict=True):
        assert before.step == after.step
        assert torch.equal(before.images_BCHW, after.images_BCHW)
    whole.close()
    rest.close()


def test_input_is_float32_in_channels_last(store):
    loader = batches(store, 4, range(4), last=1)
    (batch,) = loader
    assert batch.images_BCHW.shape == (4, 3, 224, 224)
    assert batch.images_BCHW.dtype == torch.float32
    assert batch.images_BCHW.is_contiguous(memory_format=torch.channels_last)
    loader.close()


def test_a_failure_in_the_loaders_thread_reaches_the_loop(store, monkeypatch):
    def broken(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(augmentation.Cropper, "crop", broken)
    loader = batches(store, 4, range(4))
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(loader))
    loader.close()


def test_memory_of_a_batch_is_used_again_when_the_batch_is_gone_and_not_before():
    memory = BufferPool(np.float32)
    first, second = (torch.from_numpy(memory.take((2, 3))) for _ in range(2))
    held, gone = first.data_ptr(), second.data_ptr()
    part = first[1:]
    del first, second
    third, fourth = (torch.from_numpy(memory.take((2, 3))) for _ in range(2))
    assert gone == third.data_ptr()
    assert held != fourth.data_ptr(), f"a part of it is still in use: {part}"


def test_bytes_for_a_device_are_the_stored_images_of_the_same_batch(store):
    loader = batches(store, 16, range(16), last=0)
    expected = store.train.read(epoch_order(0, 0, 60)[16:32])
    assert np.array_equal(loader.read(1).numpy(), expected)
    loader.close()


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_make_the_same_batch(store, threads):
    one, many = (
        TrainingBatches(store, AugmentConfig(), 0, 16, torch.arange(16), 0, 0, threads=n)
        for n in (1, threads)
    )
    assert torch.equal(one.make(2).images_BCHW, many.make(2).images_BCHW)
    one.close()
    many.close()


def test_a_closed_loader_leaves_no_thread(store):
    before = threading.active_count()
    loader = batches(store, 4, range(4), last=1000)
    next(iter(loader))
    loader.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(("batch", "shares"), [(7, 1), (4, 4), (64, 3), (1, 8)])
def test_evaluation_shares_hold_each_image_once(store, batch, shares):
    seen = [
        image.numpy().tobytes()
        for share in range(shares)
        for images, labels in evaluation_batches(store.val, batch, share, shares, torch.device("cpu"))
        for image in images
    ]
    assert len(seen) == len(store.val)
    assert set(seen) == {p.tobytes() for p in store.val.read(np.arange(len(store.val)))}


@pytest.fixture(scope="module")
def small_store(tiny_store, tmp_path_factory):
    """Images of 48x48 pixels."""
    return make_store_of_size(48, tiny_store.parent / "imagenet", tmp_path_factory.mktemp("48") / "48.zarr")


def test_preprocessing_makes_no_store_that_the_trainer_refuses():
    assert IMAGE_SIZES[0] == CROP


def test_a_store_of_images_smaller_than_a_crop_is_refused_by_name(small_store):
    sentence = f"{small_store} has images of 48x48 pixels, and the network crops 224x224: make another store"
    with pytest.raises(UserError, match=sentence):
        open_data(small_store)


@pytest.mark.parametrize(
    "typed",
    [
        "run --run {new}",
        "run --run {new} --dry-run",
        "evaluate --run {run} --ten-crop",
        "import_weights {new}.npz --run {new}",
        "figures {run}",
    ],
)
def test_every_command_refuses_such_a_store_in_one_sentence(typed, small_store, small_run, tmp_path):
    words = typed.format(new=tmp_path / "new", run=small_run).split()
    done = command(*words, "--store", small_store, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{small_store} has images of 48x48 pixels" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("typed", ["predict {new}.jpg --model {run}", "export {run} --to {new}"])
def test_a_network_of_such_images_is_refused_in_one_sentence(typed, small_store, small_run, tmp_path):
    """As older versions could train it; its checkpoint says what its images were."""
    Image.new("RGB", (300, 300)).save(tmp_path / "new.jpg")
    folder = shutil.copytree(small_run, tmp_path / "run")
    for saved in (folder / "checkpoints").glob("step-*"):
        held, manifest = saved / "training_set.safetensors", saved / "manifest.json"
        held.write_bytes(TrainingSet.of(open_store(small_store)).to_bytes())
        found = json.loads(manifest.read_text())
        found["sha256"][held.name] = hashlib.sha256(held.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(found))
    words = typed.format(new=tmp_path / "new", run=folder).split()
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "has images of 48x48 pixels" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_store_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="snakemake preprocess"):
        open_data(tmp_path / "nothing.zarr")
