"""The settings of `snakemake preprocess --config`, checked before any stage; config.yaml explains them."""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from preprocess.errors import UserError

SCHEMA = Path(__file__).with_name("config.schema.yaml")
PATHS = ("imagenet", "store", "dask_address")


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
    for name in PATHS:
        value = found.get(name)
        if value is None and name in found:
            raise UserError(f"the setting {name} is empty: write {name}=PATH")
        if value is not None and not isinstance(
            value, str
        ):  # Snakemake takes 2012 as a number, [a] as a list
            raise UserError(f"the setting {name} is no text: write ./ before the name, as in {name}=./2012")
        if value and value.startswith("~"):
            found[name] = str(Path(value).expanduser())
    for name, value in found.items():  # Snakemake takes True alone for a yes
        if schema["properties"][name].get("type") == "boolean" and str(value).lower() in ("true", "false"):
            found[name] = str(value).lower() == "true"
    for error in Draft202012Validator(schema).iter_errors(found):
        name = ".".join(map(str, error.path))
        why = error.schema.get("description") if isinstance(error.schema, Mapping) else None
        raise UserError(
            f"the setting {name} is wrong: {error.message}{f' ({why})' if why else ''}"
            if name
            else f"a setting is missing: {error.message}"
        )
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"the setting {name} is {value}: it must be a finite number")
    if set("{}") & set(found["store"]):
        raise UserError(
            f"the store {found['store']} has a brace in its path, which Snakemake takes for a pattern: "
            "name another place, store=PATH"
        )
    return found
