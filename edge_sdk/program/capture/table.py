"""Rows that make a program's operations out of torch's, by the name of the operator.

A row gets the builder and the call, and emits what the call stands for. An operator
that has none is refused with its layer and source line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows import (
    activations,
    angles,
    arithmetic,
    comparisons,
    embeddings,
    extremes,
    images,
    layers,
    matrices,
    normed,
    norms,
    recurrent,
    reductions,
    sequences,
)
from edge_sdk.program.capture.rows.drawn import gamma, random
from edge_sdk.program.capture.rows.losses import classes, cosines, values
from edge_sdk.program.capture.rows.rearranged import (
    batches,
    copies,
    elements,
    joins,
    listed,
    places,
)
from edge_sdk.program.capture.rows.spectra import complex_numbers, frames, transforms

__all__ = ["ROWS", "Row"]

Row = Callable[[Builder, Node], None]

# "conv2d" is every overload of aten.conv2d; in-place forms are those without "_".
ROWS: Final[Mapping[str, Row]] = {
    **images.ROWS,
    **layers.ROWS,
    **norms.ROWS,
    **normed.ROWS,
    **elements.ROWS,
    **classes.ROWS,
    **values.ROWS,
    **cosines.ROWS,
    **activations.ROWS,
    **random.ROWS,
    **gamma.ROWS,
    **angles.ROWS,
    **sequences.ROWS,
    **copies.ROWS,
    **recurrent.ROWS,
    **embeddings.ROWS,
    **arithmetic.ROWS,
    **comparisons.ROWS,
    **joins.ROWS,
    **places.ROWS,
    **batches.ROWS,
    **listed.ROWS,
    **reductions.ROWS,
    **extremes.ROWS,
    **matrices.ROWS,
    **transforms.ROWS,
    **frames.ROWS,
    **complex_numbers.ROWS,
}
