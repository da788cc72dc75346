"""Errors that a user can correct: one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

from preprocess.shared.disk import disk_failure
from preprocess.shared.files import check_output


class UserError(Exception):
    """Wrong input or a wrong setting; shown as one sentence, without a traceback."""


def as_disk_failure(error: BaseException | None, resumable: bool = False) -> UserError | None:
    """A UserError for an OSError of a full or vanished disk; None for any other error.

    `resumable`: the command continues from a checkpoint when it is started again.
    """
    then = "it continues from the last checkpoint" if resumable else "what is complete on the disk stays"
    sentence = disk_failure(error, then)
    return None if sentence is None else UserError(sentence)


def require_output(path: Path | None, *suffixes: str) -> None:
    """Before the work: try whether an output can be written, and its missing folders made.

    suffixes: those that the name must end in; none: any.

    Raises UserError when it cannot be written.
    """
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{path} must end in {' or '.join(suffixes)}: the name says the format.")
    try:
        check_output(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Name another place.") from None
