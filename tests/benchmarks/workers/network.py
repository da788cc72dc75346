"""Measure images a second of a network as users write and train it: float32, all cores.

python -m tests.benchmarks.workers.network plain BATCH STEPS
"""

import sys

import torch
import torch.nn.functional as F

from preprocess.shared.cores import available_cores
from tests.benchmarks.networks import one_tower, two_towers
from tests.benchmarks.processes import report, steps_per_second

NETWORKS = {"plain": one_tower, "towers": two_towers}
CLASSES = 1000


def main(name: str, batch: int, steps: int) -> None:
    torch.set_num_threads(available_cores())
    torch.manual_seed(0)
    network = NETWORKS[name](CLASSES).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(CLASSES, (batch,))

    def step(number: int) -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    report(batch * steps_per_second(step, steps))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
