"""One job a run: a lock in the run's folder, held by rank 0.

    runs/<name>/lock      host, process, SLURM job and start of the job that trains, as JSON

The kernel releases a record lock on the file when its process ends. Some shared file systems do not pass such
locks between hosts. There the file's modification time shows that the job is alive: it is set every few
seconds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from preprocess.shared import json_files
from trainer.errors import UserError
from trainer.runs.formats import Holder

NAME = "lock"
HEARTBEAT = 5.0
"""Seconds between two updates of the file's time."""
SILENCE = 90.0
"""Seconds without an update after which another host's job counts as dead: more than the 60 for which NFS may
show a file's old attributes (`acregmax`)."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RunLock:
    """Held from the constructor until `release`, or until the process ends."""

    def __init__(self, run: Path, say: Callable[[str], None] = print, silence: float = SILENCE) -> None:
        """Make the run's folder where it is missing, and lock it. Raises UserError when another job holds it.

        say: gets a line when the lock of another host has to be watched, for up to `silence` seconds.
        """
        self._run, self._path = run, run / NAME
        run.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        try:
            self._refuse_if_held(say, silence)
            self._write()
            for probe in run.glob(f".{NAME}.*"):  # of a start that was killed while it waited
                probe.unlink(missing_ok=True)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def lost(self) -> bool:
        """Whether the file is gone or belongs to another job: the run's folder was removed or moved."""
        return not _same(self._path, self._descriptor)

    def release(self) -> None:
        """Remove the file, and the run's folder if nothing else is in it."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if not self.lost():
                self._path.unlink()
                self._run.rmdir()
        os.close(self._descriptor)

    def _open(self) -> int:
        """Open the file and lock it, if no living process holds the lock."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            self._kernel = True
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._kernel = False
                if error.errno not in NO_LOCKS:
                    holder = _read(descriptor)
                    os.close(descriptor)
                    raise UserError(_in_use(self._run, holder)) from None
            if _same(self._path, descriptor):
                return descriptor
            os.close(descriptor)  # its holder has removed it since

    def _refuse_if_held(self, say: Callable[[str], None], silence: float) -> None:
        """Look at who wrote the file: this process may have the kernel's lock only because the file system
        keeps locks to one host."""
        holder = _read(self._descriptor)
        if holder and self._alive(holder, say, silence):
            raise UserError(_in_use(self._run, holder))

    def _alive(self, holder: Mapping[str, Any], say: Callable[[str], None], silence: float) -> bool:
        if holder.get("host") == socket.gethostname():
            return not self._kernel and _started(holder["process"]) == holder.get("process_started")
        if _slurm_job_is_over(holder):
            return False
        first = self._changed()
        told = False
        while self._age() < silence:
            if not told:
                say(f"{self._run}: waiting for a sign of life of {_who(holder)}, up to {silence:g} s")
                told = True
            time.sleep(min(1.0, silence / 10))
            if self._changed() != first:
                return True
        return False

    def _changed(self) -> float:
        return self._path.stat().st_mtime

    def _age(self) -> float:
        """Seconds since the file's last change by the file system's own clock."""
        probe = self._run / f".{NAME}.{socket.gethostname()}.{os.getpid()}"
        probe.touch()
        try:
            return probe.stat().st_mtime - self._changed()
        finally:
            probe.unlink(missing_ok=True)

    def _write(self) -> None:
        mine = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "process_started": _started(os.getpid()),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "slurm_restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        data = json.dumps(mine).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        os.fsync(self._descriptor)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)


def _same(path: Path, descriptor: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _read(descriptor: int) -> dict[str, Any]:
    """The job that wrote the file; empty when the file is empty, incomplete or damaged."""
    try:
        return {**json_files.parse(os.pread(descriptor, 4096, 0), Holder, NAME)}
    except (OSError, json_files.JsonError):
        return {}


def _started(process: int) -> str | None:
    """The start of a process in the kernel's ticks; None where there is no such process."""
    with contextlib.suppress(OSError):
        # The fields after the name, which can contain spaces; the start is the 22nd of all.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _slurm_job_is_over(holder: Mapping[str, Any]) -> bool:
    """Whether the holder was an earlier start of this same job, or its SLURM job has ended."""
    job = holder.get("slurm_job")
    if not job:
        return False
    if job == os.environ.get("SLURM_JOB_ID"):
        return holder.get("slurm_restart") != os.environ.get("SLURM_RESTART_COUNT", "0")
    if not shutil.which("squeue"):
        return False
    states = "--states=running,suspended,completing,configuring,stopped"
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", states, "--format=%i"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    gone = "Invalid job id" in asked.stderr  # SLURM forgets a job some minutes after its end
    return gone or (asked.returncode == 0 and not asked.stdout.strip())


def _who(holder: Mapping[str, Any]) -> str:
    job = f", SLURM job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"process {holder.get('process', '?')} on {holder.get('host', 'an unknown host')}{job}"


def _in_use(run: Path, holder: Mapping[str, Any]) -> str:
    since = f" since {holder['since']}" if "since" in holder else ""
    return (
        f"{run} is being trained by {_who(holder)}{since}; watch it with: python -m trainer.watch "
        f"{shlex.quote(str(run))}. "
        "For another run at the same time name one: --run runs/NAME."
    )
