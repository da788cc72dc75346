"""Train the model zoos' AlexNet as users do in torch, from class folders of JPEGs.

python -m tests.benchmarks.workers.zoo IMAGES ERRORS

As torchvision's reference training does for this network: random resized crops and flips, batches of 32, SGD
with a learning rate of 0.01, momentum 0.9 and weight decay 1e-4. Besides, bfloat16 autocast, channels_last
and a loader process for each core. A validation error is added to ERRORS after each epoch.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from preprocess.shared.cores import available_cores
from tests.benchmarks.networks import one_tower

BATCH, EPOCHS = 32, 30  # torchvision's rate is constant for the first 30 epochs
CROP, SIDE = 224, 256
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Photographs(Dataset[tuple[Tensor, int]]):
    """The JPEGs of one part, train or val."""

    def __init__(self, folder: Path, training: bool) -> None:
        classes = sorted(path.name for path in folder.iterdir())
        self.items = [
            (path, k) for k, name in enumerate(classes) for path in sorted((folder / name).iterdir())
        ]
        self.classes, self.training = len(classes), training

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.items[index]
        image = Image.open(path).convert("RGB")
        image = random_resized_crop(image) if self.training else centre(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - MEAN[:, None, None]) / STD[:, None, None], label


def random_resized_crop(image: Image.Image) -> Image.Image:
    """8 to 100 % of the area, sides of 3:4 to 4:3, brought to 224x224, half of them flipped."""
    width, height = image.size
    for _ in range(10):
        area = random.uniform(0.08, 1) * width * height
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    image = image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def centre(image: Image.Image) -> Image.Image:
    """The shorter side brought to 256, and the central 224x224."""
    scale = SIDE / min(image.size)
    width, height = (max(SIDE, round(scale * side)) for side in image.size)
    left, top = (width - CROP) // 2, (height - CROP) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + CROP, top + CROP))


def main(images: Path, errors: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(available_cores())
    train, val = Photographs(images / "train", True), Photographs(images / "val", False)
    workers = {"num_workers": available_cores(), "persistent_workers": True}
    loader = DataLoader(train, BATCH, shuffle=True, drop_last=True, **workers)
    validation = DataLoader(val, 4 * BATCH, **workers)
    network = one_tower(train.classes).to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def logits(images_BCHW: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(images_BCHW.contiguous(memory_format=torch.channels_last)).float()

    for _ in range(EPOCHS):
        network.train()
        for images_BCHW, labels_B in loader:
            sgd.zero_grad()
            F.cross_entropy(logits(images_BCHW), labels_B).backward()
            sgd.step()
        network.eval()
        with torch.no_grad():
            wrong = sum(int((logits(x).argmax(1) != labels_B).sum()) for x, labels_B in validation)
        with errors.open("a") as file:
            file.write(f"{wrong / len(val)}\n")
        print(f"top-1 error {wrong / len(val):.4f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
