"""An experiment continues from the files of an earlier command only if that had the same settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.errors import UserError


def require_same_settings(path: Path, differences: Iterable[str]) -> None:
    """Raise UserError if there are differences; each is a phrase such as "--seed was 0, now 1"."""
    phrases = "; ".join(differences)
    if phrases:
        raise UserError(
            f"{path} was made with other settings: {phrases}. Name another --out, or remove {path}."
        )


def cannot_continue(path: Path, reason: object) -> UserError:
    """The error for files whose settings cannot be compared with this command's."""
    return UserError(f"{path} cannot be continued: {reason}. Name another --out, or remove {path}.")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A phrase for each setting that differs or was not recorded."""
    return [
        f"{name} was {old.get(name, 'not recorded')}, now {value}"
        for name, value in new.items()
        if old.get(name) != value
    ]
