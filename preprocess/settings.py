"""The settings of `snakemake preprocess --config`, checked before any stage; config.yaml explains them."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from preprocess.errors import UserError
from preprocess.shared.program import expanded

SCHEMA = Path(__file__).with_name("config.schema.yaml")
PATHS = ("imagenet", "store", "classes", "dask_address")


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with ~ expanded in paths, and with true and false as such.

    Raises:
        UserError: one is unknown, of a wrong type or out of its range.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    for name in settings:
        if name not in schema["properties"]:
            near = difflib.get_close_matches(name, schema["properties"], 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"there is no setting {name}: {meant}preprocess/config.yaml lists all of them")
    found = dict(settings)
    for name, value in settings.items():
        if isinstance(value, str) and schema["properties"][name].get("type") == "boolean":
            # Snakemake takes True alone for a yes
            found[name] = {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(value, str) and name in PATHS:
            found[name] = expanded(value)
    for error in Draft202012Validator(schema).iter_errors(found):
        if not error.path:
            raise UserError(
                f"a setting is missing: {error.message}; preprocess/config.yaml lists all of them"
            )
        name = error.path[0]
        raise UserError(f"the setting {name} must be {error.schema['description']}, not {error.instance!r}")
    return found
