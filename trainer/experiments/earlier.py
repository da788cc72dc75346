"""What an earlier command left in the folder of an experiment: taken up only with the same settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.errors import UserError


def refuse_other_settings(path: Path, differences: Iterable[str]) -> None:
    """Raises UserError when there are any; each difference is a phrase such as "--seed was 0, now 1"."""
    phrases = "; ".join(differences)
    if phrases:
        raise UserError(
            f"{path} was made with other settings: {phrases}. Name another --out, or remove {path}."
        )


def unreadable(path: Path, reason: object) -> UserError:
    """For what cannot be compared with the settings of this command."""
    return UserError(f"{path} cannot be taken up: {reason}. Name another --out, or remove {path}.")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A phrase for each setting, by its name, that is not the same or was not recorded."""
    return [
        f"{name} was {old.get(name, 'not recorded')}, now {value}"
        for name, value in new.items()
        if old.get(name) != value
    ]
