"""Errors that a user can correct: one sentence that says what to do."""

from __future__ import annotations

import errno
import os


class UserError(Exception):
    """Wrong input or a wrong setting; shown as one sentence, without a traceback."""


REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EACCES: "mend its permissions",
    errno.EROFS: "name a folder that can be written to, or mount it for writing",
    errno.EIO: "check that disk and its cable or network",
    errno.ESTALE: "mount that network folder again",
}
"""The remedy for a disk that is full, closed or gone, by the kernel's error number."""


def as_disk_failure(error: BaseException | None, resumable: bool = False) -> UserError | None:
    """A UserError for an OSError of a full or vanished disk; None for any other error.

    `resumable`: the command continues from a checkpoint when it is started again.
    """
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    # Python does not know the path of a file that was open already.
    path = next((os.fsdecode(p) for p in (error.filename2, error.filename) if isinstance(p, str | bytes)), "")
    where = path or "A file that this command has open"
    then = "it continues from the last checkpoint" if resumable else "what is complete on the disk stays"
    return UserError(
        f"{where} could not be read or written: {os.strerror(error.errno)}; {REMEDIES[error.errno]} "
        f"and start the same command again: {then}."
    )
