"""Tasks on Dask's workers, and a bar fed by what they really finished."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from distributed import Client, KilledWorker, as_completed, get_worker

from preprocess.shared import progress

TOPIC = "pictures"


def reason(error: BaseException) -> str:
    """Why a task failed, in words."""
    if isinstance(error, KilledWorker):
        return "it ended every worker that tried it: not enough memory?"
    return str(error)


def report(done: int) -> None:
    """Called in a task: tell the bar how many pictures of this task are done."""
    worker = get_worker()
    worker.log_event(TOPIC, (str(worker.get_current_task()), done))


def run(
    client: Client, function: Callable[..., Any], tasks: dict[tuple[Any, ...], int], already: int
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Run `function(*task)` for every task; yield each task with its result or its exception, as they end.

    A task may run twice, when its worker dies: it must do no harm by that, and the bar counts it once. All
    are of one name and sent at once: Dask then keeps them until a worker is free. One by one it would share
    them out before it knows how long they take, and at the end one worker would wait for the other.

    Args:
        client: of the cluster.
        function: runs in a worker; may call `report`.
        tasks: how many pictures each task holds; a task is the arguments of `function`.
        already: pictures done before.
    """
    keys = [(function.__name__, *map(str, task)) for task in tasks]
    done = dict.fromkeys(map(str, keys), 0)
    total = already + sum(tasks.values())
    with closing(progress.images(total, already, "shards")) as bar:

        def count(key: str, pictures: int) -> None:
            bar.update(max(0, pictures - done[key]))
            done[key] = max(pictures, done[key])

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
