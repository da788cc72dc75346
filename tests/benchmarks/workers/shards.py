"""Make the shards of an indexed store in this process, without Dask.

python -m tests.benchmarks.workers.shards STORE    prints images a second, and the peak of memory, as JSON
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

from preprocess.plan import SPLITS, load_plan, work_folder
from preprocess.workers import compute
from preprocess.workers.task import make_shard


def main() -> None:
    store = Path(sys.argv[1])
    plan = load_plan(store)
    compute.report = lambda done: None  # to Dask's scheduler
    first, *others = [(split, shard) for split in SPLITS for shard in range(plan.shards(split))]
    shutil.rmtree(work_folder(store) / "records", ignore_errors=True)
    make_shard(store, *first)  # compiles loops, fills caches: not counted
    begin = time.perf_counter()
    for shard in others:
        make_shard(store, *shard)
    images = sum(plan.length(*shard) for shard in others)
    figure = images / (time.perf_counter() - begin)
    # not ru_maxrss, which begins with the memory of the process that started this one
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    memory = int(peak) // 1024
    print(json.dumps({"figure": figure, "peak_mb": memory}))


if __name__ == "__main__":
    main()
