"""A program without the units that its mask cuts: smaller weights and activations.

Kept values stay in their canonical order, so nothing changes on the wire. Entries that
have a value for each unit, such as biases, are whole outside: those of cut units wait
here and go back as they came.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Shape, TrainingProgram
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.units import without_units
from edge_sdk.sparse import Boxes, Mask

__all__ = ["Cut", "cut_program"]

log = logging.getLogger(__name__)
_SAMPLES = 2  # on which the narrower program is tried
_SEED = 7


class Cut:
    """A narrower program, and the entries of the whole one that it leaves out.

    Args:
        program: The whole program.
        narrower: The same without cut units.
        mask: The whole mask.
    """

    def __init__(
        self, program: TrainingProgram, narrower: TrainingProgram, mask: Mask
    ) -> None:
        self.program = narrower
        pairs = zip(program.parameters, narrower.parameters, strict=True)
        self._shapes: dict[str, Shape] = {
            p.name: own.shape for p, own in pairs if p.shape != own.shape
        }
        self.mask = Mask({name: self.part(name, mask[name]) for name in mask})
        self._whole: dict[str, NDArray[Any]] = {}

    def part(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """The entries of an array that belong to units that are here."""
        return array[_corner(self._shapes[name])] if name in self._shapes else array

    def taken(self, dense: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Dense entries as the narrower program takes them; the rest waits."""
        self._whole = {n: np.array(a) for n, a in dense.items() if n in self._shapes}
        return {name: self.part(name, array) for name, array in dense.items()}

    def given(self, dense: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Dense entries as the whole model has them: of cut units what was taken."""
        found = dict(dense)
        for name, whole in self._whole.items():
            found[name] = whole.copy()
            found[name][_corner(self._shapes[name])] = dense[name]
        return found


def cut_program(program: TrainingProgram, mask: Mask, boxes: Boxes) -> Cut | None:
    """The program without the units that boxes cut; None where it has to stay whole.

    The narrower program is tried on random weights and inputs: where it predicts
    something else, a unit was read after all, and it is not taken.

    Args:
        program: Checked; no pass has been over it.
        mask: Drawn in the boxes.
        boxes: Of the mask's recipe.
    """
    if not boxes:
        return None
    try:
        found = Cut(program, without_units(program, boxes), mask)
        same = found.mask.nnz == mask.nnz and _same(program, mask, found)
    except EngineError as error:
        log.info("units that the mask cuts are computed all the same: %s", error)
        return None
    if not same:
        log.info("units that the mask cuts are computed: the model counts on its width")
        return None
    return found


def _same(program: TrainingProgram, mask: Mask, cut: Cut) -> bool:
    """True if both predict the same at random weights."""
    rng = np.random.default_rng(_SEED)
    graph = program.evaluation
    asked = graph.tensors[graph.inputs[0]]
    inputs: NDArray[Any] = rng.normal(size=(_SAMPLES, *asked.shape)).astype(np.float32)
    if asked.whole:
        inputs = np.zeros(inputs.shape, np.int64)
    values = {n: _weights(rng, mask[n].shape)[mask[n]] for n in mask}
    dense: dict[str, NDArray[Any]] = {}
    for entry in program.parameters:
        if entry.name not in mask.layers:
            spread = entry.buffer and not entry.counter  # a variance is above 0
            made = np.abs(_weights(rng, entry.shape)) + np.float32(0.5 * spread)
            dense[entry.name] = made.astype(np.int64) if entry.counter else made
    whole = _predicted(program, mask, values, dense, inputs)
    found = _predicted(cut.program, cut.mask, values, cut.taken(dense), inputs)
    return all(
        np.allclose(one, other, 1e-3, 1e-4 * float(np.abs(other).max()))
        for one, other in zip(found, whole, strict=True)
    )


def _weights(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float32]:
    """Random, so that a layer's results are about as large as what it takes."""
    scale = max(1, int(np.prod(shape[1:]))) ** -0.5
    found: NDArray[np.float32] = (rng.normal(size=shape) * scale).astype(np.float32)
    return found


def _predicted(
    program: TrainingProgram,
    mask: Mask,
    values: Mapping[str, NDArray[np.float32]],
    dense: Mapping[str, NDArray[Any]],
    inputs: NDArray[Any],
) -> tuple[NDArray[Any], ...]:
    several = ("",) * len(program.evaluation.outputs)
    model = ProgramModel(replace(program, returns=several), mask)
    model.load(values, dense)
    found: tuple[NDArray[Any], ...] = model.predict(inputs)
    return found


def _corner(shape: Shape) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)
