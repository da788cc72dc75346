"""Hosts made of network namespaces: a cable each to one switch, of any bandwidth, that can be cut.

    login (10.213.7.254) ── switch ──┬── host1 (10.213.7.1)
                                     ├── host2 (10.213.7.2) ...

All of it lies in namespaces of its own: neither the machine's interfaces nor its /etc are touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # ip and tc are not on every user's path
PROGRAMS = ("ip", "tc", "unshare", "hostname")
NETWORK = "10.213.7"
LOGIN = 254  # where mpirun runs
QUEUE = 16_000_000  # bytes: what waits for a cable is not lost
AGENT = Path(__file__).parent / "agent.sh"
# UCX sees that all hosts are one kernel and would carry everything through shared memory.
HONEST = {"UCX_TLS": "tcp,self", "MPIR_CVAR_CH4_NETMOD": "ucx"}


class NoHostsError(Exception):
    """Why there can be no namespaces here."""


class Hosts:
    """Hosts 1 to `count`, as mpirun sees them."""

    def __init__(self, count: int) -> None:
        self.numbers = range(1, count + 1)
        self.prefix = f"tower{os.getpid()}-"
        self.environment = {**os.environ, "PATH": PATH, **HONEST, "HOSTS_PREFIX": self.prefix}

    def do(self, *command: object) -> str:
        """Run a command of the system. Raises NoHostsError with what it says when it fails."""
        words = [str(word) for word in command]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise NoHostsError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def ip(self, number: int, *command: object) -> str:
        """`ip` inside one host."""
        return self.do("ip", "-n", f"{self.prefix}{number}", *command)

    def make(self) -> None:
        """Namespaces, the switch and the cables."""
        for number in (LOGIN, *self.numbers):
            self.do("ip", "netns", "add", f"{self.prefix}{number}")
            self.ip(number, "link", "set", "lo", "up")
        self.ip(LOGIN, "link", "add", "lan", "type", "bridge")
        for number in self.numbers:
            far_end = ("peer", "name", "lan", "netns", f"{self.prefix}{number}")
            self.ip(LOGIN, "link", "add", f"port{number}", "type", "veth", *far_end)
            self.ip(LOGIN, "link", "set", f"port{number}", "master", "lan", "up")
        for number in (LOGIN, *self.numbers):
            self.ip(number, "address", "add", f"{NETWORK}.{number}/24", "dev", "lan")
            self.ip(number, "link", "set", "lan", "up")
            # The same on every machine, and what any kernel lets a namespace take. Under BBR, which some
            # machines have, the ranks of a slow cable leave a third of it idle.
            choose = "echo reno >/proc/sys/net/ipv4/tcp_congestion_control"
            self.do("ip", "netns", "exec", f"{self.prefix}{number}", "sh", "-c", choose)

    def limit(self, bits_per_second: float) -> None:
        """The bandwidth of every cable, each way."""
        # The kernel lets a bucket through at a time: a hundredth of a second's, at least some packets.
        burst = max(32_000, round(bits_per_second / 8 / 100))
        for number in self.numbers:
            for namespace, device in ((number, "lan"), (LOGIN, f"port{number}")):
                self.do(
                    *("tc", "-n", f"{self.prefix}{namespace}", "qdisc", "replace", "dev", device, "root"),
                    *("tbf", "rate", f"{round(bits_per_second)}bit", "burst", burst, "limit", QUEUE),
                )

    def cut(self, number: int, state: str = "down") -> None:
        """Pull a host's cable out of the switch."""
        self.ip(LOGIN, "link", "set", f"port{number}", state)

    def mend(self, number: int) -> None:
        """And put it back."""
        self.cut(number, "up")

    def end(self) -> None:
        """Kill whatever still runs on the hosts."""
        for number in (LOGIN, *self.numbers):
            for process in self.do("ip", "netns", "pids", f"{self.prefix}{number}").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)

    def carried(self, number: int) -> tuple[int, int]:
        """Bytes that a host has sent and received over its cable so far."""
        folder = "/sys/class/net/lan/statistics"
        counters = (f"{folder}/tx_bytes", f"{folder}/rx_bytes")
        sent, received = self.do("ip", "netns", "exec", f"{self.prefix}{number}", "cat", *counters).split()
        return int(sent), int(received)

    def mpirun(self, ranks_each: int, *command: str, count: int | None = None) -> list[str]:
        """A command on the first `count` hosts or on all, started at the login host by MPICH's mpirun."""
        numbers = self.numbers[:count]
        hosts = ",".join(f"{NETWORK}.{number}" for number in numbers)
        return [
            *("ip", "netns", "exec", f"{self.prefix}{LOGIN}", "mpirun"),
            *("-launcher", "ssh", "-launcher-exec", str(AGENT)),
            *("-localhost", f"{NETWORK}.{LOGIN}", "-iface", "lan", "-hosts", hosts),
            *("-ppn", str(ranks_each), "-n", str(ranks_each * len(numbers)), *command),
        ]


@contextlib.contextmanager
def network(count: int) -> Iterator[Hosts]:
    """So many hosts; gone in the end. Raises NoHostsError where there can be none."""
    if lacking := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]:
        raise NoHostsError(f"not installed: {', '.join(lacking)}")
    text = subprocess.run(("mpirun", "--version"), capture_output=True, text=True).stdout
    if "HYDRA" not in text:
        raise NoHostsError("only MPICH's mpirun is known to reach into network namespaces here")
    hosts = Hosts(count)
    try:
        hosts.make()
        yield hosts
    finally:
        with contextlib.suppress(NoHostsError):
            hosts.end()
        for number in (LOGIN, *hosts.numbers):
            with contextlib.suppress(NoHostsError):
                hosts.do("ip", "netns", "delete", f"{hosts.prefix}{number}")
