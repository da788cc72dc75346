"""Classes that a source names by WordNet IDs get words, and a store stays the store that it was."""

import json
from pathlib import Path

from preprocess.sources.class_names import ilsvrc2012, in_words
from preprocess.store import open_store
from tests.preprocess.helpers import draw, encode, make_store


def test_the_first_and_the_last_class_of_ilsvrc_2012_have_the_words_of_its_devkit() -> None:
    assert in_words(("n01440764", "n15075141")) == (
        "tench, Tinca tinca",
        "toilet tissue, toilet paper, bathroom tissue",
    )


def test_the_classes_of_ilsvrc_2012_are_in_the_order_of_caffes_synsets_txt() -> None:
    found = ilsvrc2012()
    places = {0: "n01440764", 1: "n01443537", 281: "n02123045", 999: "n15075141"}  # 281: tabby cat
    assert len(found) == 1000
    assert {place: found[place] for place in places} == places


def test_a_class_outside_of_ilsvrc_2012_keeps_its_name() -> None:
    assert in_words(("cat", "n00000001", "n02012849")) == ("cat", "n00000001", "crane")
    assert in_words(("cat", "dog")) is None


def test_a_store_whose_source_has_no_words_is_opened_with_them(tmp_path: Path) -> None:
    for name in ("n01440764/1.jpg", "n02012849/1.jpg"):
        for part in ("train", "val"):
            path = tmp_path / "imagenet" / part / name
            path.parent.mkdir(parents=True)
            path.write_bytes(encode(draw(1, 30, 30)))
    store = make_store(tmp_path / "imagenet", tmp_path / "a.zarr", "--image-size", 224)
    assert open_store(store).class_names == ("tench, Tinca tinca", "crane")
    kept = json.loads((store / "zarr.json").read_text())["attributes"]
    assert (kept["class_names"], kept["orientation"]) == (None, "as-stored")  # as in earlier versions
