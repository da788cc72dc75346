"""Runs tasks on Dask workers and shows how many images they have finished."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from distributed import Client, KilledWorker, as_completed, get_worker

from preprocess.shared import progress

TOPIC = "images done"  # name of the log events that carry the counts


def reason(error: BaseException) -> str:
    """The reason of a task's failure, in words."""
    if isinstance(error, KilledWorker):
        return "every worker that tried it was killed: not enough memory?"
    return str(error)


def report(done: int) -> None:
    """Report the number of finished images of the running task; called inside a task."""
    worker = get_worker()
    worker.log_event(TOPIC, (str(worker.get_current_task()), done))


def run_tasks(
    client: Client, function: Callable[..., Any], tasks: dict[tuple[Any, ...], int], already: int
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Run `function(*task)` for every task; yield each task with its result or exception as it ends.

    A task runs again when its worker dies, and its images are counted once. All tasks have one name and are
    submitted at once, so that Dask queues them until a worker is free. Tasks submitted one by one would be
    assigned to workers in advance, and at the end one worker would be idle.

    Args:
        client: of the cluster.
        function: runs in a worker; may call `report`; must be safe to repeat.
        tasks: number of images of each task; a task is the tuple of arguments of `function`.
        already: number of images that were done before.
    """
    keys = [(function.__name__, *map(str, task)) for task in tasks]
    done = dict.fromkeys(map(str, keys), 0)
    total = already + sum(tasks.values())
    with closing(progress.images(total, already, "shards")) as bar:

        def count(key: str, images: int) -> None:
            bar.update(max(0, images - done[key]))
            done[key] = max(images, done[key])

        client.subscribe_topic(TOPIC, lambda event: count(*event[1]))
        futures = client.map(function, *zip(*tasks, strict=True), key=keys, pure=False)
        tasks_of = dict(zip(futures, tasks, strict=True))
        for future in as_completed(futures):
            task, error = tasks_of[future], future.exception()
            if error is None:
                count(str(future.key), tasks[task])
            yield task, future.result() if error is None else error
            future.release()
        client.unsubscribe_topic(TOPIC)
