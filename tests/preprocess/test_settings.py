"""The settings of `snakemake preprocess --config`, as Snakemake reads them from the command line."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.cli import parse_config

from preprocess.errors import UserError
from preprocess.settings import checked

DEFAULTS: dict[str, Any] = yaml.safe_load(Path("preprocess/config.yaml").read_text())

EDGES = [
    ("imagenet=2012", "the setting imagenet is no text: write ./ before the name, as in imagenet=./2012"),
    ("imagenet=./2012", None),
    ("imagenet=", "the setting imagenet is empty: write imagenet=PATH"),
    ("imagenet=[red]", "write ./ before the name"),
    ("imagenet=True", "write ./ before the name"),
    ("imagenet=a [red] {folder}", None),
    ("store=2012", "store=./2012"),
    ("store=", "the setting store is empty"),
    ("store=a{x}.zarr", "a{x}.zarr has a brace .* name another place, store=PATH"),
    ("store=a b.zarr", None),
    ("imagent=x", "there is no setting imagent: did you mean imagenet.* preprocess/config.yaml"),
    ("Store=x", "there is no setting Store: did you mean store"),
    ("zzz=x", "there is no setting zzz: preprocess/config.yaml"),
    ("image_size=223", "image_size is wrong: 223 is less than .* 224 .the network crops"),
    ("image_size=4097", "greater than the maximum of 4096"),
    ("image_size=256.5", "not of type 'integer'"),
    ("image_size=nan", "image_size"),
    ("shard_length=0", "less than the minimum of 1"),
    ("shard_length=-1", "less than the minimum of 1"),
    ("shard_length=65537", "greater than the maximum of 65536"),
    ("draft=maybe", "not of type 'boolean'"),
    ("orientation=sideways", "'sideways' is not one of"),
    ("seed=-1", "less than the minimum of 0"),
    ("seed=abc", "seed is wrong: 'abc' is not of type 'integer'"),
    ("verify_md5=1", "not of type 'boolean'"),
    ("on_error=skp", "'skp' is not one of"),
    ("dask=loca", "'loca' is not one of"),
    ("dask_workers=-1", "less than the minimum of 0"),
    ("validation_fraction=nan", "validation_fraction is nan: it must be a finite number"),
    (
        "validation_fraction=inf",
        "validation_fraction is wrong: inf is greater than or equal to the maximum of 1",
    ),
    ("validation_fraction=1", "the maximum of 1"),
    ("validation_fraction=-0.1", "the minimum of 0"),
    ("validation_fraction=0", None),
    ("train_per_class=-1", "the minimum of 0"),
    ("validation_per_class=ten", "not of type 'integer'"),
    ("subset=True", None),
    ("subset=yes", "not of type 'boolean'"),
]


@pytest.mark.parametrize(("given", "sentence"), EDGES, ids=[setting for setting, _ in EDGES])
def test_a_setting_is_taken_or_refused_in_a_sentence(given: str, sentence: str | None) -> None:
    settings = DEFAULTS | parse_config([given])
    if sentence is None:
        assert checked(settings) == settings
        return
    with pytest.raises(UserError, match=sentence) as refused:
        checked(settings)
    assert "\n" not in str(refused.value)


def test_every_setting_has_an_edge() -> None:
    assert {setting.partition("=")[0] for setting, _ in EDGES} >= DEFAULTS.keys() - {"dask_address"}


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = checked(DEFAULTS | parse_config(["imagenet=~/x", "store=~/y.zarr"]))
    assert (found["imagenet"], found["store"]) == ("/home/me/x", "/home/me/y.zarr")


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("True", True), ("false", False), ("FALSE", False)]
)
def test_yes_and_no_are_as_the_messages_write_them(word: str, value: bool) -> None:
    assert checked(DEFAULTS | parse_config([f"subset={word}"]))["subset"] is value


@given(st.dictionaries(st.sampled_from([*DEFAULTS, "other"]), st.text(max_size=12), max_size=3))
def test_any_settings_are_taken_or_refused_in_a_sentence(words: dict[str, str]) -> None:
    try:
        found = checked(DEFAULTS | parse_config([f"{name}={word}" for name, word in words.items()]))
    except UserError:
        return
    assert all(not isinstance(value, float) or math.isfinite(value) for value in found.values())
