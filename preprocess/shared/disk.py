"""The sentence for a disk that is full, closed or gone. Imports the standard library alone."""

import errno
import os

REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EACCES: "mend its permissions",
    errno.EPERM: "mend its permissions",
    errno.EROFS: "name a folder that can be written to, or mount it for writing",
    errno.EIO: "check that disk and its cable or network",
    errno.ESTALE: "mount that network folder again",
    errno.ENOTDIR: "name another place (a part of this path is a file)",
    errno.EISDIR: "put a file in the place of this folder",
    errno.ELOOP: "name another place (this link leads back to itself)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n 4096)",
    errno.ENFILE: "close other programs",
}
"""The remedy by the kernel's error number."""


def disk_failure(error: BaseException | None, then: str) -> str | None:
    """A sentence for an OSError of a disk; None for any other error.

    then: what the same command does when it is started again.
    """
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    # Python does not know the path of a file that was open already.
    path = next((os.fsdecode(p) for p in (error.filename2, error.filename) if isinstance(p, str | bytes)), "")
    where = path or "A file that this command has open"
    return (
        f"{where} could not be read or written: {os.strerror(error.errno)}; {REMEDIES[error.errno]} "
        f"and start the same command again: {then}."
    )
