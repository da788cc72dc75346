"""Starts or finds Dask workers: processes on this machine, a running scheduler, or SLURM jobs.

Connections to other machines use TLS. The dashboard listens on loopback.
"""

import importlib
import importlib.util
import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster
from distributed.security import Security

from preprocess.errors import UserError
from preprocess.shared import json_files
from preprocess.shared.open_files import lacking_open_files

MODES = ("local", "address", "slurm")
DASHBOARD = "127.0.0.1:0"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SETTINGS = {
    # Dask's own settings return the memory of each image to the system: page faults cost 1.5 ms an image
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    "distributed.worker.profile.enabled": False,
    # intervals of self-monitoring, which takes 2.8 % of a core at Dask's own settings
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "1s",
}


@contextmanager
def connected(mode: str, workers: int, address: str = "", shared: Path | None = None) -> Iterator[Client]:
    """Yield a client of the workers; print one line with their scheduler and dashboard.

    Args:
        mode: one of MODES.
        workers: number of processes or of SLURM jobs; not used in mode `address`.
        address: of the running scheduler, or the path of its file; for mode `address`.
        shared: a folder that jobs see too, for temporary credentials and logs; for mode `slurm`.

    Raises:
        UserError: workers could not be started or reached, or only without encryption.
    """
    # With several workers, each gets a shard only when it is free, so that none waits behind a busy one.
    # A single worker gets the next shard in advance.
    saturation = {"distributed.scheduler.worker-saturation": 1.0 if workers > 1 else 1.1}
    with dask.config.set(SETTINGS | saturation), ExitStack() as stack:
        try:
            client: Client = stack.enter_context(
                _running(address)
                if mode == "address"
                else Client(stack.enter_context(_cluster(mode, workers, shared)))
            )
        except (RuntimeError, OSError, TimeoutError, ValueError, TypeError) as error:
            where = f" at {address}" if mode == "address" else ""
            raise UserError(
                f"Dask's workers{where} could not be started or reached ({error}): run again"
                + (", and see whether the scheduler runs" if where else "")
            ) from error
        scheduler = client.scheduler_info(n_workers=0)["address"]
        print(f"workers: {mode}, scheduler {scheduler}, {_dashboard(client)}", flush=True)
        yield client


def _cluster(mode: str, workers: int, shared: Path | None) -> Any:
    if mode == "local":
        if lacking := lacking_open_files(32 + 16 * workers):  # measured: 2 workers need more than 40
            raise UserError(f"Dask's workers need {lacking}, or use fewer workers")
        with _interrupt_for_this_process_alone():
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=DASHBOARD,
                silence_logs=logging.CRITICAL,
            )
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise UserError(
            "dask: slurm needs dask-jobqueue: `pip install dask-jobqueue cryptography`, or set dask: local"
        ) from error
    # the site's partition, account and time limit are in ~/.config/dask/jobqueue.yaml
    given = dask.config.get("jobqueue.slurm", {})
    defaults: dict[str, Any] = {"cores": 1, "processes": 1, "memory": "2GiB"}
    if shared:
        defaults["log-directory"] = str(shared / "logs")
    inherit = f"export DASK_INTERNAL_INHERIT_CONFIG={dask.config.serialize(SETTINGS)}"
    cluster = jobqueue.SLURMCluster(
        **{key.replace("-", "_"): value for key, value in defaults.items() if given.get(key) is None},
        protocol="tls://",
        security=credentials(),
        scheduler_options={"dashboard_address": DASHBOARD},
        job_script_prologue=[*(given.get("job-script-prologue") or []), inherit],
        worker_extra_args=["--dashboard-address", DASHBOARD],
        shared_temp_directory=str(shared) if shared else None,
    )
    cluster.scale(jobs=workers)
    return cluster


@contextmanager
def _interrupt_for_this_process_alone() -> Iterator[None]:
    """Processes that are started here, and later by threads that are, never see Ctrl-C; their end is this
    process's work. Here Ctrl-C is only delayed until the context ends."""
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def credentials() -> Security:
    """TLS credentials: those of Dask's configuration, or temporary ones for this run. Raises UserError."""
    if dask.config.get("distributed.comm.tls.ca-file", None):
        return Security(require_encryption=True)
    try:
        return Security.temporary()
    except ImportError as error:
        raise UserError(
            "TLS needs cryptography to make credentials: `pip install cryptography`, or name your own in "
            "Dask's configuration, distributed.comm.tls"
        ) from error


class _SchedulerFile(TypedDict):
    address: str


def _running(address: str) -> Client:
    """A client of a running scheduler; TLS is required on other machines. Raises UserError."""
    if not address:
        raise UserError("dask: address needs dask_address, a scheduler's address or its file")
    found = address
    if "://" not in address:
        try:
            found = json_files.read(Path(address), _SchedulerFile)["address"]
        except json_files.JsonError as error:
            raise UserError(
                f"dask_address {address} is no address and no scheduler file ({error})"
            ) from error
    url = urlsplit(found)
    if url.scheme == "tls":
        if not dask.config.get("distributed.comm.tls.ca-file", None):
            raise UserError(
                f"{found} needs TLS: name your credentials in Dask's configuration, distributed.comm.tls "
                "(or DASK_DISTRIBUTED__COMM__TLS__CA_FILE and the like)"
            )
        return Client(found, security=Security(require_encryption=True), timeout=20)
    if url.hostname not in LOOPBACK:
        raise UserError(
            f"{found} is neither encrypted nor authenticated and not on this machine: start the scheduler "
            "with TLS and give its tls:// address"
        )
    return Client(found, timeout=20)


def _dashboard(client: Client) -> str:
    if importlib.util.find_spec("bokeh") is None:
        return "dashboard off (it needs bokeh, which would replace Pillow-SIMD by Pillow)"
    return f"dashboard {client.dashboard_link}"
