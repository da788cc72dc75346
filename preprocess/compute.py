"""Where the work is done: Dask's client, and a bar fed by what the workers really finished."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from tqdm import tqdm

from preprocess.errors import UserError

TOPIC = "pictures"
SETTINGS = {
    # Dask would have every freed picture handed back to the system and faulted in again: 1.5 ms a picture
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    "distributed.worker.profile.enabled": False,
}


@contextmanager
def local(workers: int) -> Iterator[Client]:
    """A cluster of so many processes of one thread each on this machine; it listens on loopback alone."""
    with dask.config.set(SETTINGS), ExitStack() as stack:
        try:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(Client(cluster))
        except (RuntimeError, OSError, TimeoutError) as error:  # one was killed before it was ready
            raise UserError(f"the workers could not be started, run again ({error})") from error
        yield client


def reason(error: BaseException) -> str:
    """Why a task failed, in words."""
    if isinstance(error, KilledWorker):
        return "it ended every worker that tried it: not enough memory?"
    return str(error)


def report(done: int) -> None:
    """Called in a task: tell the bar how many pictures of this task are done."""
    worker = get_worker()
    worker.log_event(TOPIC, (worker.get_current_task(), done))


def run(
    client: Client, function: Callable[..., Any], tasks: dict[tuple[Any, ...], int], already: int
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Run `function(*task)` for every task; yield each task with its result or its exception, as they end.

    A task may run twice, when its worker dies: it must do no harm by that, and the bar counts it once.

    Args:
        client: of the cluster.
        function: runs in a worker; may call `report`.
        tasks: how many pictures each task holds; a task is the arguments of `function`.
        already: pictures done before.
    """
    done = dict.fromkeys(map(str, tasks), 0)
    total = already + sum(tasks.values())
    with tqdm(total=total, initial=already, unit=" images", dynamic_ncols=True) as bar:

        def count(task: str, pictures: int) -> None:
            bar.update(max(0, pictures - done[task]))
            done[task] = max(pictures, done[task])

        client.subscribe_topic(TOPIC, lambda event: count(*event[1]))
        futures = {client.submit(function, *task, key=str(task), pure=False): task for task in tasks}
        for future in as_completed(futures):
            task, error = futures[future], future.exception()
            if error is None:
                count(str(task), tasks[task])
            yield task, future.result() if error is None else error
            future.release()
        client.unsubscribe_topic(TOPIC)
