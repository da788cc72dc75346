"""Several networks' softmax outputs averaged, as the paper averages its five (section 6).

B batch, K classes, n images of one rank's share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from trainer.evaluation.metrics import Tally


class Ensemble:
    """Sums of softmax outputs, network after network, over one rank's share of the images.

    One network is in memory at a time. The sums take n x K x 4 bytes for each kind of view, whatever the
    number of networks: 200 MB for ImageNet's 50,000 validation images, divided among the pairs of ranks.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}
        self._labels: list[Tensor] = []

    def add(self, batch: int, labels_B: Tensor, outputs: Mapping[str, Tensor]) -> None:
        """Add one network's outputs float32 [B, K], by kind of view, for the batch of this number."""
        if batch == len(self._labels):
            self._labels.append(labels_B.cpu())
        for views, p_BK in outputs.items():
            sums = self._sums.setdefault(views, [])
            if batch == len(sums):
                sums.append(p_BK.to("cpu", copy=True))
            else:
                sums[batch] += p_BK.cpu()

    def tallies(
        self, kinds: Sequence[str], classes: int, total: Callable[[Tensor], Tensor]
    ) -> dict[str, Tally]:
        """Counts of the average, which ranks the classes as the sum does. `total` sums over the pairs."""
        found = {}
        for views in kinds:
            tally = Tally(classes)
            for p_BK, labels_B in zip(self._sums.get(views, []), self._labels, strict=True):
                tally.add(p_BK, labels_B)
            found[views] = tally.summed(total)
        return found
