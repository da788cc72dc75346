"""What a user can put right: one sentence that says what to do."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Wrong input or a wrong setting; shown as one sentence, without a traceback."""


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """For commands of one process: a UserError becomes one line on stderr and exit code 1.

    Commands of many ranks use `topology.all_or_none`.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        raise SystemExit(0) from None
