"""The parts that all stages' commands share: options, log, lock of the store, exit codes."""

import argparse
import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from preprocess.errors import UserError
from preprocess.shared.disk import disk_failure
from preprocess.shared.files import check_output
from preprocess.shared.interrupt import interruptible
from preprocess.shared.names import print_any_character, shown

log = logging.getLogger("preprocess")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the options of every stage: `--store` and `--log`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--store", type=Path, required=True, help="the zarr store to make")
    made.add_argument("--log", type=Path, help="file that receives the stage's log")
    return made


class _Formatter(logging.Formatter):
    """Lines in which names from outside are escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return shown(super().formatMessage(record))


class _LogFile(logging.FileHandler):
    """A log file that warns once, on stderr, when the disk is full, and then drops lines."""

    _warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._warned:
            self._warned = True
            print(f"warning: no more lines in the log {self.baseFilename}: {error}", file=sys.stderr)


def run(
    arguments: argparse.Namespace, stage: Callable[[argparse.Namespace], str], writes: bool = True
) -> None:
    """Run a stage, print the line that it returns, and log it with the seconds taken.

    A `UserError` is printed on stderr in one sentence, and the process exits with code 1. Any other
    exception is a bug: it is logged with its traceback and raised.

    Args:
        arguments: of the stage's command line; `store` and `log` are used here.
        stage: the stage's function.
        writes: whether it writes into the store; then it waits until no other such stage runs.
    """
    print_any_character()
    handler: logging.Handler = logging.NullHandler()
    try:
        if arguments.log:
            check_output(arguments.log)
            arguments.log.parent.mkdir(parents=True, exist_ok=True)
            handler = _LogFile(arguments.log, encoding="utf-8")
    except OSError as error:
        print(f"error: the log {shown(arguments.log)} cannot be opened: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    begin = time.monotonic()
    try:
        with (
            interruptible("finished shards stay, and the same command goes on"),
            locked(arguments.store) if writes else nullcontext(),
        ):
            summary = stage(arguments)
    except (UserError, OSError) as error:
        for_user = isinstance(error, UserError)
        sentence = str(error) if for_user else disk_failure(error, "finished shards stay")
        if sentence is None:
            log.exception("the stage failed")
            raise
        log.error("%s", sentence)
        print(f"error: {shown(sentence)}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        log.exception("the stage failed")
        raise
    log.info("%s [%.1f s]", summary, time.monotonic() - begin)
    print(shown(summary), flush=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, after waiting for the process that holds it; its end releases it.

    When Snakemake alone is killed, its stage still runs, and the next Snakemake must wait for it.
    """
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that writes to {folder}", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # some network file systems have no locks; two stages then only do the same work twice
        pass
    try:
        yield
    finally:
        os.close(handle)
