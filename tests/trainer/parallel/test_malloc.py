"""Memory of steps and of batches: the same pages again, as long as a run lasts."""

import json
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT, run

STEPS = """
import json, resource
from dataclasses import replace
import psutil
import torch
from trainer.config import NetworkConfig
from trainer.recipes import AUTO
from trainer.parallel.malloc import configure_malloc
from trainer.training.step import Trainer
from trainer.parallel.topology import init_topology

topology = init_topology("cpu")
if not configure_malloc():
    raise SystemExit(77)
config = replace(
    AUTO,
    network=replace(AUTO.network, filters=(12, 8, 8, 8, 8), hidden=1024),
    optim=replace(AUTO.optim, batch_size=32),
    hardware=replace(AUTO.hardware, precision="float32"),
)
trainer = Trainer(config, topology, 100)
images = torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
labels = torch.randint(100, (32,))
faults, held = [], []
for step in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    trainer.train_step(images, labels, step, lr=1e-3)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    held.append(psutil.Process().memory_info().rss)
print(json.dumps([faults, held]))
"""


def test_no_step_after_the_first_ones_takes_fresh_memory():
    done = run(sys.executable, "-c", STEPS, cwd=ROOT)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    faults, held = json.loads(done.stdout)  # held: bytes after each step
    # Pages of 4 KiB, some of 2 MiB. A tensor that finds a gap a little too small may still cost some in a
    # later step; without the switch these four steps take 50,000.
    assert faults[0] > 1_000
    assert sum(faults[4:]) < 5_000, faults
    assert held[7] - held[3] < 20e6, held


LARGE = """
import json, re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from trainer.parallel.malloc import configure_malloc

kept = configure_malloc()
with ThreadPoolExecutor(1) as thread:  # whose memory would be its own, as MPI's is when it sums gradients
    x = list(thread.map(torch.ones, [10_000_000] * 5))  # 200 MB
found = re.findall(r"AnonHugePages: +(\\d+)", Path("/proc/self/smaps").read_text())
print(json.dumps([kept, sum(map(int, found))]))
"""


@pytest.mark.privileged
def test_tensors_lie_in_large_pages_where_the_kernel_has_them():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel gives no large pages")
    done = run(sys.executable, "-c", LARGE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kept, kilobytes = json.loads(done.stdout)
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert kilobytes > 150_000


EPOCHS = """
import json, sys
from pathlib import Path
import psutil
import torch
from trainer.recipes import AUTO
from trainer.data.batches import TrainingBatches, open_data

store = open_data(Path(sys.argv[1]))
steps = len(store.train) // 12
batches = TrainingBatches(store, AUTO.augment, 0, 12, torch.arange(12), 0, 5 * steps, threads=2)
held = []
for batch in batches:
    if (batch.step + 1) % steps == 0:
        held.append(psutil.Process().memory_info().rss)
batches.close()
print(json.dumps(held))
"""


def test_five_epochs_of_batches_take_the_memory_of_one(tiny_store):
    done = run(sys.executable, "-c", EPOCHS, str(tiny_store), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout)  # bytes at the end of each epoch
    # 240 images as input are 145 MB, as bytes 47 MB: either would be seen if each batch stayed.
    assert held[-1] - held[0] < 20e6, held
