"""A command on a terminal of its own: Ctrl-C, and a terminal that is closed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

MARK = "TERMINAL_OF_A_TEST"


class Terminal:
    """The leader of a session whose controlling terminal is the other end of `master`."""

    def __init__(self, *command: str, cwd: Path, **environment: str) -> None:
        self._mark = f"{MARK}={uuid.uuid4()}".encode()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        name, _, value = self._mark.decode().partition("=")
        self.job = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environment, name: value},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._output = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._closing = False
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal has no writer left
            while not self._closing:
                self._output += os.read(self._master, 65536)

    @property
    def output(self) -> str:
        return self._output.decode(errors="replace")

    def ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """What a terminal's window does when it is closed."""
        self._closing = True
        # A reader holds the descriptor open; a character that is echoed wakes it.
        if self._master >= 0:
            with contextlib.suppress(OSError):
                os.write(self._master, b" ")
            self._reader.join(timeout=5)
            os.close(self._master)
            self._master = -1

    def processes(self, text: str = "") -> list[int]:
        """All that were started here and live, whatever session they are in; with `text` in their command."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = self._mark in (folder / "environ").read_bytes()  # empty for one that has ended
                if marked and text in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                    found.append(int(folder.name))
        return sorted(found)

    def ranks(self) -> list[int]:
        """The processes that run Python."""
        return [
            pid
            for pid in self.processes("-m trainer.")
            if "python" in Path(f"/proc/{pid}/exe").readlink().name
        ]

    def loads_torch(self, ranks: int) -> bool:
        """Whether so many ranks have begun to load torch, after the package's first lines, where Ctrl-C is
        given its meaning."""
        found = 0
        for pid in self.ranks():
            with contextlib.suppress(OSError):  # it has ended
                found += "/libtorch" in Path(f"/proc/{pid}/maps").read_text()
        return found == ranks

    def wait_for(self, what: Callable[[], object], limit: float = 300) -> None:
        until = time.monotonic() + limit
        while not what():
            assert self.job.poll() is None, self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.005)

    def all_end(self, limit: float = 10) -> bool:
        until = time.monotonic() + limit
        while self.processes():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


@contextlib.contextmanager
def on_terminal(*command: str, cwd: Path, **environment: str) -> Iterator[Terminal]:
    """Whatever is left of the command at the end is killed."""
    terminal = Terminal(*command, cwd=cwd, **environment)
    try:
        yield terminal
    finally:
        for pid in terminal.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        terminal.job.wait()
        terminal.close()
