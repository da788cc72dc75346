"""Each setting of preprocessing is taken with a meaning, or refused in a sentence before any stage runs."""

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preprocess import index, shard
from preprocess.errors import UserError
from preprocess.settings import SCHEMA as SCHEMA_FILE
from preprocess.settings import checked
from tests.preprocess.helpers import ROOT


def as_typed(*settings: str) -> dict[str, Any]:
    """The settings after --config, as Snakemake reads them."""
    from snakemake.cli import parse_config  # slow to import: one process runs these tests

    found: dict[str, Any] = parse_config(list(settings))
    return found


SCHEMA = yaml.safe_load(SCHEMA_FILE.read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((ROOT / "preprocess" / "config.yaml").read_text())

# As YAML writes them: a configuration file's text, and the values of --config.
TAKEN = {
    "imagenet": ["images", "'a b'", "'{x}'"],
    "store": ["s.zarr", "'12'"],
    "split": ["all", "val"],
    "classes": ["''", "runs/a"],
    "image_size": ["224", "4096"],
    "shard_length": ["1", "65536"],
    "draft": ["true", "false"],
    "orientation": ["auto", "as-stored", "upright"],
    "seed": ["0", "9223372036854775807"],
    "verify_md5": ["true", "false"],
    "subset": ["true", "false"],
    "on_error": ["stop", "skip"],
    "dask": ["local", "address", "slurm"],
    "dask_address": ["''", "tls://host:1"],
    "dask_workers": ["0", "65536"],
    "validation_fraction": ["0", "0.0", "0.999"],
    "train_per_class": ["0", "1000000000"],
    "validation_per_class": ["0", "1000000000"],
}
NO_NUMBERS = ["true", "'1'", "[1]", "{a: 1}", "null", ".nan", ".inf", "-.inf", "1.5", "1e999"]
NO_TEXTS = ["12", "true", "[a]", "null", ".nan"]
NO_FLAGS = ["0", "'yes'", "null", ".nan"]
REFUSED = {
    "imagenet": ["''", '"a\\0b"', *NO_TEXTS],
    "store": ["''", '"a\\0b"', "'a{b}'", "'a{b'", '"a\\nb"', *NO_TEXTS],
    "split": ["train", "''", "null"],
    "classes": ['"a\\0b"', *NO_TEXTS],
    "image_size": ["223", "4097", "-1", *NO_NUMBERS],
    "shard_length": ["0", "65537", *NO_NUMBERS],
    "draft": NO_FLAGS,
    "orientation": ["sideways", "1", "''", "null"],
    "seed": ["-1", "9223372036854775808", *NO_NUMBERS],
    "verify_md5": NO_FLAGS,
    "subset": NO_FLAGS,
    "on_error": ["ignore", "true", "''", "null"],
    "dask": ["mpi", "true", "''", "null"],
    "dask_address": NO_TEXTS,
    "dask_workers": ["-1", "65537", *NO_NUMBERS],
    "validation_fraction": ["-0.001", "1", "1.0", *NO_NUMBERS],
    "train_per_class": ["-1", "1000000001", *NO_NUMBERS],
    "validation_per_class": ["-1", "1000000001", *NO_NUMBERS],
}


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, values in table.items() for value in values]


def test_every_setting_is_in_the_tables() -> None:
    assert SCHEMA["properties"].keys() == DEFAULTS.keys() == TAKEN.keys() == REFUSED.keys()


@pytest.mark.parametrize(("name", "value"), cases(TAKEN))
def test_a_value_of_the_range_is_taken(name: str, value: str) -> None:
    settings = DEFAULTS | {name: yaml.safe_load(value)}
    assert checked(settings) == settings


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_any_other_value_is_refused_with_what_it_must_be(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^the setting {name} must be .*, not ") as refused:
        checked(DEFAULTS | {name: yaml.safe_load(value)})
    assert "\n" not in str(refused.value)


MEANT = {
    "imagenet=./2012": "./2012",
    "imagenet=a [red] {folder}": "a [red] {folder}",
    "imagenet=~/x": "/home/me/x",
    "store=a b.zarr": "a b.zarr",
    "subset=true": True,
    "subset=True": True,
    "subset=FALSE": False,
}
"""As users type them after --config, and the value that is meant."""
EXPLAINED = {
    "imagenet=2012": r"imagenet must be the path of .* \(./12 for a name that is a number\), not 2012",
    "imagenet=": "imagenet must be the path of a folder or an archive",
    "imagenet=[red]": "imagenet must be the path",
    "store=a{x}.zarr": "store must be the path of a folder without braces",
    "imagent=x": "there is no setting imagent: did you mean imagenet.* preprocess/config.yaml",
    "Store=x": "there is no setting Store: did you mean store",
    "zzz=x": "there is no setting zzz: preprocess/config.yaml",
    "validation_fraction=nan": "validation_fraction must be a number of at least 0 and below 1, not nan",
    "subset=yes": "subset must be true or false, not 'yes'",
}


@pytest.mark.parametrize(("typed", "value"), MEANT.items())
def test_a_setting_is_read_as_it_was_typed(
    typed: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert checked(DEFAULTS | as_typed(typed))[typed.partition("=")[0]] == value


@pytest.mark.parametrize(("typed", "sentence"), EXPLAINED.items())
def test_a_setting_that_is_read_as_something_else_is_explained(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        checked(DEFAULTS | as_typed(typed))


@settings(derandomize=True, deadline=None)
@example({"imagenet": "~0"})  # the folder of a user that does not exist
@given(st.dictionaries(st.sampled_from([*DEFAULTS, "other"]), st.text(max_size=12), max_size=3))
def test_any_settings_are_taken_or_refused_in_a_sentence(words: dict[str, str]) -> None:
    try:
        typed = as_typed(*(f"{name}={word}" for name, word in words.items()))
    except AssertionError:  # Snakemake's own, for "#" and the like
        return
    with contextlib.suppress(UserError):
        checked(DEFAULTS | typed)


@pytest.mark.parametrize("module", [index, shard], ids=["index", "shard"])
def test_a_stages_flags_have_the_ranges_of_the_settings(module: Any) -> None:
    """Its command line refuses the numbers that the schema refuses, and takes the others."""
    names = {"workers": "dask_workers"}
    required = ["--store", "s", "--imagenet", "i"] if module is index else ["--store", "s"]
    for action in module.parser()._actions:
        name = names.get(action.dest, action.dest)
        limits = SCHEMA["properties"].get(name, {})
        if name in names.values() or "minimum" not in limits or name == "image_size":
            continue  # 0 workers are replaced by the Snakefile; plan.py checks the size
        for value in (limits["minimum"], limits.get("maximum", 0.999)):
            module.parser().parse_args([*required, action.option_strings[0], str(value)])
        for value in (limits["minimum"] - 1, limits.get("maximum", 0) + 1, "nan"):
            with pytest.raises(SystemExit):
                module.parser().parse_args([*required, f"{action.option_strings[0]}={value}"])
