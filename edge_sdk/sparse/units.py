"""Units of layers that are cut together, and the boxes that a cut leaves of weights.

A sub-network by units keeps the first units of each layer (HeteroFL, arXiv:2010.01264;
FjORD, arXiv:2102.13451). Of a weight matrix that leaves a box: its first rows, and the
columns of its input's first units. Units are alike before training, so the first ones
are as good as any, and a box is two numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import SparsityError

if TYPE_CHECKING:
    from edge_sdk.sparse.mask import LayerShape

__all__ = ["Boxes", "Units", "in_box", "unit_boxes"]

# Weight name -> (output units, input columns) that it keeps; absent: all of both.
Boxes: TypeAlias = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Units:
    """Units (channels, features) that some layers make and others read.

    Attributes:
        name: The first weight that makes or reads them.
        size: How many there are.
        block: So many neighbours stay or go together: the channels of a norm group.
        entries: Dense ``state_dict`` entries with one value per unit: biases, norms.
    """

    name: str
    size: int
    block: int = 1
    entries: tuple[str, ...] = ()

    def kept(self, share: float) -> int:
        """Units that at least a share of them takes, in whole blocks.

        Example:
            >>> Units("conv1.weight", 32, block=8).kept(0.3)
            16
        """
        blocks = self.size // self.block
        return self.block * min(blocks, max(1, ceil(share * blocks - 1e-9)))


def unit_boxes(
    layers: Sequence[LayerShape], share: float
) -> dict[str, tuple[int, int]]:
    """Boxes of a sub-network that keeps a share of each layer's units.

    Args:
        layers: With their units; a layer without known units keeps them all.
        share: In (0, 1]; rounded up, so no layer is ever empty.
    """
    boxes = {}
    for layer in layers:
        rows, columns = layer.shape[:2]
        if layer.outputs is not None:
            rows = layer.outputs.kept(share)
        if layer.inputs is not None:
            columns = layer.inputs.kept(share) * (columns // layer.inputs.size)
        if (rows, columns) != layer.shape[:2]:
            boxes[layer.name] = (rows, columns)
    return boxes


def in_box(layer: LayerShape, boxes: Boxes) -> NDArray[np.bool_] | None:
    """Pattern of a layer's weights inside its box; None if the box is the layer.

    Raises:
        SparsityError: If the box is empty or larger than the layer.
    """
    if layer.name not in boxes:
        return None
    rows, columns = boxes[layer.name]
    if not (0 < rows <= layer.shape[0] and 0 < columns <= layer.shape[1]):
        raise SparsityError(
            f"layer {layer.name} of {layer.shape[0]} output units and "
            f"{layer.shape[1]} input columns cannot be cut to {rows} and {columns}"
        )
    pattern = np.zeros(layer.shape, np.bool_)
    pattern[:rows, :columns] = True
    return pattern
