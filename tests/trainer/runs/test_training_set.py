"""A network stays itself: its mean image and its classes come with it, whatever becomes of its store."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from preprocess.store import open_store
from tests.preprocess.helpers import make_store
from tests.trainer.in_process import train
from trainer import evaluate, export, predict
from trainer import run as command
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.figures.drawing import draw
from trainer.runs.training_set import TrainingSet, as_seen, match

WNIDS, NUMBERS = ("n00", "n01", "n02", "n10"), ("0", "1", "2", "10")  # as text, 10 comes before 2
COLOURS = ((220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30))


def draw_store(folder, names, colours=COLOURS, seed=0):
    """A store of one colour a class, and the folder of its images."""
    root = folder / "images"
    for k, (name, colour) in enumerate(zip(names, colours, strict=True)):
        for part, count in (("train", 8), ("val", 3)):
            (root / part / name).mkdir(parents=True)
            for n in range(count):
                noise = np.random.default_rng((seed, k, n, count)).integers(-30, 30, (40, 50, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{n}.png")
    return make_store(root, folder / "store.zarr")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same images under wnids and under numbers; and others, darker, of two of the classes."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("wnids", "numbers", "dark")}
    return {
        "wnids": draw_store(made["wnids"], WNIDS),
        "numbers": draw_store(made["numbers"], NUMBERS),
        "dark": draw_store(made["dark"], ("n02", "n10"), ((20, 20, 120), (120, 120, 20)), seed=1),
    }


@pytest.fixture(scope="module", params=["wnids", "numbers"])
def trained(request, stores, tmp_path_factory):
    """A network that tells the colours apart, trained on one of the two."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(stores[request.param], folder, "--epochs", "32", "--lr", "0.003", "--color-std", "0") == 0
    return request.param, folder


def errors(folder, *flags):
    target = folder / "errors.json"
    evaluate.main(["--run", str(folder), "--json", str(target), *map(str, flags)])
    return json.loads(target.read_text())["top1_error"]


def test_the_same_images_under_other_names_give_the_same_error(trained, stores, capsys):
    own, folder = trained
    other = "numbers" if own == "wnids" else "wnids"
    assert errors(folder) == 0
    assert "is not the store" not in capsys.readouterr().out
    assert errors(folder, "--store", stores[other]) == 0
    text = capsys.readouterr().out.replace("\n", " ")
    assert "is not the store that this network was trained on" in text
    assert "matched by their order" in text


def test_another_store_is_seen_less_the_networks_own_mean(trained, stores):
    own, folder = trained
    if own == "numbers":
        with pytest.raises(SystemExit):  # two wnids do not say which of four numbers they are
            errors(folder, "--store", stores["dark"])
        return
    network, dark = load(folder, device="cpu"), open_store(stores["dark"])
    assert abs(dark.mean - network.mean_SS3).max() > 20
    guesses = network.probabilities(dark.val.read(np.arange(len(dark.val)))).argmax(1)
    wrong = [network.classes[g] != dark.classes[k] for g, k in zip(guesses, dark.val.labels, strict=True)]
    assert errors(folder, "--store", stores["dark"], "--precision", "float32") == np.mean(wrong)


def test_a_store_made_anew_under_the_same_path_is_pointed_out_by_all_who_look_at_it(
    trained, stores, tmp_path, capsys
):
    own, source = trained
    folder, path = shutil.copytree(source, tmp_path / "run"), tmp_path / "store.zarr"
    record = json.loads((folder / "config.json").read_text())
    record["config"]["run"] |= {"store": str(path), "folder": str(folder)}
    (folder / "config.json").write_text(json.dumps(record))
    shutil.copytree(stores["numbers" if own == "wnids" else "wnids"], path)
    assert errors(folder) == 0
    assert "is not the store" in capsys.readouterr().out.replace("\n", " ")
    text = []
    draw(folder, names=["confusion"], device="cpu", say=text.append)
    assert "is not the store" in text[0]
    with pytest.raises(SystemExit) as leaving:
        command.main(["--run", str(folder), "--epochs", "9"])
    assert leaving.value.code == 1
    assert "was trained on another store" in capsys.readouterr().err


def test_predictions_and_exports_need_no_store(trained, stores, tmp_path, capsys):
    own, source = trained
    folder = shutil.copytree(source, tmp_path / "run")
    record = json.loads((folder / "config.json").read_text())
    record["config"]["run"]["store"] = str(tmp_path / "gone.zarr")
    (folder / "config.json").write_text(json.dumps(record))
    images = stores[own].parent / "images" / "val"
    exported = tmp_path / "exported"
    export.main([str(folder), "--to", str(exported), "--no-onnx"])
    for model in (folder, exported / "alexnet.safetensors"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            predict.main([str(images), "--model", str(model), "--format", "json", "--top", "1"])
        assert leaving.value.code == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found) == 12
        for answer in found:
            (guess,) = answer["predictions"]
            assert guess["class"] == answer["picture"].split("/")[-2]


@pytest.mark.parametrize(
    ("found", "known", "expected", "explained"),
    [
        (("b", "a"), ("a", "b", "c"), [1, 0], False),
        (("0", "1", "10", "2"), ("0", "1", "10", "2"), [0, 1, 2, 3], False),
        # Sorted as text 10 is third; as numbers it is the fourth class.
        (("0", "1", "10", "2"), ("n00", "n01", "n02", "n10"), [0, 1, 3, 2], True),
        (("n00", "n01", "n02", "n10"), ("0", "1", "10", "2"), [0, 1, 3, 2], True),
        (("1", "3"), ("n00", "n01", "n02", "n10"), [1, 3], True),  # places, as in a part of ImageNet-V2
    ],
)
def test_classes_are_matched_by_name_and_numbers_by_their_order(found, known, expected, explained):
    index_K, how = match(found, known, "other.zarr")
    assert index_K.tolist() == expected
    assert bool(how) == explained


@pytest.mark.parametrize(
    ("found", "known"),
    [(("a", "x"), ("a", "b")), (("1", "4"), ("n0", "n1", "n2")), (("0", "5"), ("0", "1", "2"))],
)
def test_unknown_classes_are_refused(found, known):
    with pytest.raises(UserError, match="are unknown to the network"):
        match(found, known, "other.zarr")


def test_a_store_of_another_image_size_is_refused(stores):
    store = open_store(stores["wnids"])
    network = TrainingSet(
        mean_SS3=np.zeros((288, 288, 3), np.float32), classes=store.classes, class_names=None, fingerprint="0"
    )
    with pytest.raises(UserError, match="256 pixels a side, the network was trained on 288"):
        as_seen(store, network)


def test_it_comes_back_from_its_file(stores, tmp_path):
    whole = TrainingSet.of(open_store(stores["wnids"]))
    (tmp_path / "training_set.safetensors").write_bytes(whole.to_bytes())
    found = TrainingSet.read(tmp_path)
    assert found is not None
    assert np.array_equal(found.mean_SS3, whole.mean_SS3)
    assert (found.classes, found.class_names, found.fingerprint) == (
        whole.classes,
        whole.class_names,
        whole.fingerprint,
    )
    (tmp_path / "training_set.safetensors").write_bytes(whole.to_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        TrainingSet.read(tmp_path)


@pytest.mark.parametrize("upright", [True, False])
def test_the_turning_of_images_is_kept_and_another_stores_is_told(upright, stores, tmp_path):
    store = dataclasses.replace(open_store(stores["wnids"]), upright=upright)
    (tmp_path / "training_set.safetensors").write_bytes(TrainingSet.of(store).to_bytes())
    found = TrainingSet.read(tmp_path)
    assert found.upright == upright
    other = dataclasses.replace(store, upright=not upright, fingerprint="0")
    _, remarks = as_seen(other, found)
    words = ("not turned", "store were.") if upright else ("turned", "store were not.")
    assert f"were {words[0]} as their EXIF data say, and those of the network's own {words[1]}" in remarks[1]
