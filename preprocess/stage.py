"""What every stage's command shares: its store, its log, and how it fails."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from preprocess.errors import UserError
from preprocess.files import alone

log = logging.getLogger("preprocess")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every stage takes: `--store` and `--log`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--store", type=Path, required=True, help="the zarr store to make")
    made.add_argument("--log", type=Path, help="file that receives the stage's log")
    return made


def run(
    arguments: argparse.Namespace, stage: Callable[[argparse.Namespace], str], writes: bool = True
) -> None:
    """Run a stage and print the line it returns; end the process with code 1 when it raises.

    Of the stages that write into a store one at a time is at work.

    A `UserError` is one sentence on stderr. Anything else is a fault of the program: its traceback goes
    to stderr and to the log.
    """
    handler = logging.FileHandler(arguments.log) if arguments.log else logging.NullHandler()
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
