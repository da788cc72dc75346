"""Units of a layer, each with the images that excite it most.

H, W side of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import UserError
from trainer.evaluation.layers import LAYERS
from trainer.figures import Layer, tiles
from trainer.figures.receptive_field import ReceptiveField, receptive_field
from trainer.figures.responses import Strongest
from trainer.figures.run_data import RunData


@dataclass(frozen=True)
class Unit:
    """One unit, and its strongest images; none where it is active for no image."""

    title: str
    """Its tower and number; a class's name for fc8."""
    field: ReceptiveField | None
    """None: the whole input."""
    strongest: list[Strongest]
    crops_HW3: list[NDArray[np.uint8]]
    """Their centre crops, 0..255."""
    of_others: list[bool]
    """fc8: whether an image is of another class than the unit's."""

    def patches(self) -> list[NDArray[np.uint8]]:
        """The part of each crop that the unit's largest output depends on, uint8 [side, side, 3]."""
        if not self.field:
            return self.crops_HW3
        return [
            tiles.patch(crop, *self.field.corner(s.row, s.column), self.field.side)
            for crop, s in zip(self.crops_HW3, self.strongest, strict=True)
        ]


def units(data: RunData, layer: Layer, numbers: Sequence[int]) -> list[Unit]:
    """The units of a layer with these numbers, from 0. Raises UserError for one that it does not have."""
    found, count = data.responses[layer], len(data.responses[layer].mean())
    field = receptive_field(data.module, LAYERS[layer].module)
    made = []
    for number in numbers:
        if number >= count:
            raise UserError(f"{layer} has the units 0 to {count - 1}, and no {number}")
        # An output of 0 after a ReLU is that of a unit that is not active.
        strongest = [s for s in found.strongest(number) if s.output > 0 or layer == "fc8"]
        indices = np.array([s.image for s in strongest], np.int64)
        crops = [*data.crops(indices)]
        if layer == "fc8":
            others = [label != number for label in data.shown.labels[indices].tolist()]
            made.append(Unit(data.network.name(number), field, strongest, crops, others))
        else:
            tower = data.network.towers[number * len(data.network.towers) // count].name
            made.append(Unit(f"tower {tower}, unit {number}", field, strongest, crops, []))
    return made


def most_selective(data: RunData, layer: Layer, count: int) -> list[int]:
    """The most selective units of a layer, as many of each tower, by number; of fc8 the classes."""
    parts = 1 if layer == "fc8" else len(data.network.towers)
    found, first = [], 0
    for part_U in np.split(data.responses[layer].selectivity(), parts):
        best = np.argsort(-part_U, kind="stable")[: count // parts]
        found += sorted((first + best).tolist())
        first += len(part_U)
    return found
