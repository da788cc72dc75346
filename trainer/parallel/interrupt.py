"""Ctrl-C (SIGINT) ends a command at once with exit code 130, at any moment, on all ranks.

mpirun passes Ctrl-C on to every rank. A rank that raised KeyboardInterrupt would leave its exchange, and the
others would wait for it; a rank inside MPI would not notice the signal. So each process ends itself in the
handler. Nothing is lost: files are written under another name and renamed when they are complete.

Without _interrupt.c, which needs a compiler, the kernel's default action ends the process: the exit code of a
process is 130 in a shell, that of MPICH's mpirun is 2.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

from trainer.parallel import launcher

try:
    from trainer.parallel import _interrupt
except ImportError:  # not built
    _interrupt = None  # type: ignore[assignment]

CODE = 128 + signal.SIGINT  # as a shell reports it


def end_at_once(resumable: bool = False) -> None:
    """Let SIGINT end this process, unless it is ignored or the program has a handler of its own.

    `resumable`: rank 0 tells the user that the same command continues from a checkpoint.
    """
    if signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_DFL):
        return
    if _interrupt is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return
    sentence = "interrupted" + ("; the same command continues from the last checkpoint" if resumable else "")
    text = f"{sentence}\n" if launcher.rank() == 0 else ""
    hydra = "HYDI_CONTROL_FD" in os.environ  # MPICH's own launcher, whose protocol is PMI 1
    _interrupt.end_on_sigint(text.encode(), int(os.environ.get("PMI_FD", -1)) if hydra else -1)


def raise_again() -> None:
    """Let SIGINT raise KeyboardInterrupt again, for commands of one process that clean up first."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_command() -> bool:
    """Whether this process is a command: `alexnet`, or `python -m trainer.NAME`, not a program that imports
    the package."""
    script = any(Path(word).name == "alexnet" for word in sys.orig_argv[:2])
    return script or any(flag == "-m" and n.startswith("trainer.") for flag, n in pairwise(sys.orig_argv))
