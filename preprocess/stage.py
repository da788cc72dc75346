"""What every stage's command shares: its store, its log, and how it fails."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from preprocess.errors import UserError
from preprocess.shared.files import alone

log = logging.getLogger("preprocess")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every stage takes: `--store` and `--log`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--store", type=Path, required=True, help="the zarr store to make")
    made.add_argument("--log", type=Path, help="file that receives the stage's log")
    return made


class _LogFile(logging.FileHandler):
    """A log that a full disk cannot make the loudest thing on the screen: it says so once, and goes on."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._said:
            self._said = True
            print(f"warning: no more lines in the log {self.baseFilename}: {error}", file=sys.stderr)


def run(
    arguments: argparse.Namespace, stage: Callable[[argparse.Namespace], str], writes: bool = True
) -> None:
    """Run a stage and print the line it returns; end the process with code 1 when it raises.

    Of the stages that write into a store one at a time is at work.

    A `UserError` is one sentence on stderr. Anything else is a fault of the program: its traceback goes
    to stderr and to the log.
    """
    try:
        handler = _LogFile(arguments.log) if arguments.log else logging.NullHandler()
    except OSError as error:
        print(f"error: the log cannot be opened: {error}", file=sys.stderr)
        sys.exit(1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    begin = time.monotonic()
    try:
        with alone(arguments.store) if writes else nullcontext():
            summary = stage(arguments)
    except UserError as error:
        log.error("%s", error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        log.exception("the stage failed")
        raise
    log.info("%s [%.1f s]", summary, time.monotonic() - begin)
    print(summary, flush=True)
