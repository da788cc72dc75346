"""What a user can put right: one sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from trainer.parallel import interrupt


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
"""What to do about a disk that is full, closed or gone, by the kernel's reason."""


def as_disk_failure(error: BaseException | None, resumable: bool = False) -> UserError | None:
    """The sentence for an OSError of a full or vanished disk; None for any other error.

    `resumable`: the command goes on from a checkpoint when it is started again.
    """
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    # Of a file that was open already, Python does not know the path.
    path = next((os.fsdecode(p) for p in (error.filename2, error.filename) if isinstance(p, str | bytes)), "")
    where = path or "A file that this command has open"
    then = "it continues from the last checkpoint" if resumable else "what is complete on the disk stays"
    return UserError(
        f"{where} could not be read or written: {os.strerror(error.errno)}; {REMEDIES[error.errno]} "
        f"and start the same command again: {then}."
    )


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """For commands of one process: a UserError, and a full disk, is one line on stderr and exit code 1.

    Commands of many ranks use `topology.abort_all_on_error`.
    """
    interrupt.raise_again()
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(interrupt.CODE) from None
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        raise SystemExit(0) from None
    except (UserError, OSError) as error:
        sentence = error if isinstance(error, UserError) else as_disk_failure(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
