"""A private SLURM: its own munged, slurmctld and two nodes on loopback, all of it in one folder.

As a command, `python -m tests.slurm.private FOLDER`, it waits until stdin ends, and kills what is left.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.launch import ROOT

NODES = ("n1", "n2")
SIZE = "CPUs=4 RealMemory=16000"  # of a node, whatever the machine has: two small jobs side by side
NODE = "PRIVATE_SLURM_NODE"  # in the environment of a node's daemons
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # daemons are not on every user's path
START = 60.0  # seconds; each daemon answers within one or two


class NotStartedError(Exception):
    """Why there is no SLURM here."""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=PATH)]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives away for outgoing connections."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise NotStartedError("no free ports")


def configuration(folder: Path, ports: Sequence[int]) -> str:
    """slurm.conf: no cgroups, no accounts, jobs requeued at once."""
    controller, *nodes = ports
    user = getpass.getuser()
    host = socket.gethostname().split(".")[0]
    # srun and mpirun are called back at what this machine's name stands for: all of them listen there.
    try:
        address = socket.gethostbyname(host)
    except OSError:
        raise NotStartedError(f"this machine's name, {host}, has no address") from None
    # And nowhere else, except for Debian's 127.0.1.1, which srun cannot listen at.
    alone = address == "127.0.0.1" or not address.startswith("127.")
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={host}({address})",
        f"SlurmctldPort={controller}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"TmpFS={folder}/tmp-%n",  # each node's own: there the pmix plugin makes a folder a step
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        # MPICH names its shared memory by the job's number: two of these SLURMs on one machine must not meet.
        f"FirstJobId={random.SystemRandom().randrange(1, 10_000_000)}",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0",
        "SlurmdParameters=config_overrides",  # a node has the CPUs of its configuration
        *(["CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"] if alone else []),
        "ReturnToService=2",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",
        "EnforcePartLimits=ALL",  # at submission, not by waiting for ever
        "MailProg=/bin/true",
        "KillWait=5",
        # A machine under load must not lose a node.
        "MessageTimeout=60",
        "SlurmdTimeout=600",
        *(
            f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={port} {SIZE} State=UNKNOWN"
            for name, port in zip(NODES, nodes, strict=True)
        ),
        # A job that makes place for an urgent one is told so, and has a minute.
        "PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP GraceTime=60",
        "PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=2",
        "PartitionName=paid Nodes=ALL MaxTime=60 State=UP AllowAccounts=payer",
    ]
    return "\n".join(lines) + "\n"


class Slurm:
    """A private SLURM: commands, daemons, nodes that die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in list(self.environment):  # of a job that this very test may run in
            if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "PMI")) and name != "SLURM_CONF":
                del self.environment[name]

    def __call__(self, *command: str, cwd: Path | None = None, **environment: str) -> str:
        """Run one of SLURM's commands; returns what it prints."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job."""
        words = self("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{p.name}:\n{p.read_text()[-2000:]}" for p in sorted(self.folder.glob("*.log")))

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Start a daemon."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_node(self, name: str) -> None:
        """Switch a node on."""
        for kind in ("spool", "tmp"):
            (self.folder / f"{kind}-{name}").mkdir(exist_ok=True)
        # PMIx looks a rank's neighbours up under its host's name, which here all nodes share.
        self.start(name, "slurmd", "-D", "-N", name, PMIX_HOSTNAME=name, **{NODE: name})

    def processes(self, **environment: str) -> list[psutil.Process]:
        """Processes here that belong to this SLURM and have these variables in their environment."""
        environment["SLURM_CONF"] = self.environment["SLURM_CONF"]
        marks = {f"{name}={value}".encode() for name, value in environment.items()}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # A daemon that changes its title leaves holes here, at which psutil's own environ() ends.
                if marks <= {*Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")}:
                    found.append(process)
        return found

    def kill(self, **environment: str) -> bool:
        """Kill all processes of which `processes` knows, and theirs, at once; whether there were any."""
        found = set()
        for process in self.processes(**environment):
            # A rank has its environment from mpirun, and so from the job's first node.
            found |= {process, *process.children(recursive=True)}
        # None may report the end of another before its own, as a batch script's to the controller.
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in found:
                with contextlib.suppress(psutil.Error):
                    act(process)
        return bool(found)

    def kill_node(self, name: str) -> None:
        """Kill a node's daemon and whatever runs there."""
        self.kill(**{NODE: name})
        self.daemons[name].wait()

    def resume(self, name: str) -> None:
        """Let a node that was down take jobs again."""
        with contextlib.suppress(AssertionError):  # refused for one that its daemon has brought back already
            self("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def restore(self) -> None:
        """End all jobs and bring every node back, as a test that failed half-way may leave neither."""
        if self.idle() and not self("squeue", "--noheader").strip():
            return
        self("scancel", "--full", "--user", getpass.getuser())
        for name in NODES:
            if self.daemons[name].poll() is not None:
                self.start_node(name)
            self.resume(name)
        _await(self.idle, "a node that a test had left down", self)

    def idle(self) -> bool:
        """All nodes are there and have nothing to do."""
        done = subprocess.run(
            ("sinfo", "--noheader", "--Node", "--partition=all", "--format=%N %t"),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.split() == [word for name in NODES for word in (name, "idle")]


def _await(ready: Callable[[], bool], what: str, slurm: Slurm) -> None:
    until = time.monotonic() + START
    while not ready():
        if time.monotonic() > until or any(d.poll() is not None for d in slurm.daemons.values()):
            raise NotStartedError(f"{what} did not start\n{slurm.logs()}")
        time.sleep(0.1)


def _watch(folder: Path) -> subprocess.Popen[bytes]:
    """Whatever ends this process, kill -9 too, ends a pipe, and with it all that this folder's SLURM runs."""
    command = (sys.executable, "-m", "tests.slurm.private", str(folder))
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Slurm]:
    """Start it, and stop it in the end. Raises NotStartedError where that cannot be done."""
    if lacking := missing():
        raise NotStartedError(f"not installed: {', '.join(lacking)}")
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(configuration(folder, free_ports(1 + len(NODES))))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    slurm = Slurm(folder)

    def answers(*command: str) -> bool:
        done = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
        return done.returncode == 0 and "DOWN" not in done.stdout

    watcher = _watch(folder)
    try:
        slurm.start(
            "munged",
            *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"),
            *(f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed", "--num-threads=2"),
            f"--log-file={folder}/munged-own.log",
        )
        _await((folder / "munge.socket").exists, "munged", slurm)
        slurm.start("slurmctld", "slurmctld", "-D", "-c")
        _await(lambda: answers("scontrol", "ping"), "slurmctld", slurm)
        for name in NODES:
            slurm.start_node(name)
        _await(slurm.idle, "slurmd", slurm)
        try:
            slurm("srun", "--nodes=2", "--ntasks=2", "true")
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise NotStartedError(f"a first job failed: {error}\n{slurm.logs()}") from None
        yield slurm
    finally:
        with contextlib.suppress(Exception):
            slurm("scancel", "--full", "--user", getpass.getuser())
            until = time.monotonic() + 15
            while slurm("squeue", "--noheader").strip() and time.monotonic() < until:
                time.sleep(0.2)
        daemons = [daemon for daemon in reversed(slurm.daemons.values()) if daemon.poll() is None]
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        watcher.communicate()


if __name__ == "__main__":
    sys.stdin.read()
    slurm = Slurm(Path(sys.argv[1]))
    while slurm.kill():
        time.sleep(0.1)
