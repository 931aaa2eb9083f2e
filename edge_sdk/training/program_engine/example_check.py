"""`ExampleCheck`: what a program says of a device's examples, before they are trained.

Labels and tokens have a range, which only the program knows where there is no torch.
All of them are looked at once for each program and set of examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.program.file import unpack_program
from edge_sdk.program.graph import Op, TrainingProgram
from edge_sdk.tasks.arrays import blocks, native
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.batch import prepared_array
from edge_sdk.tasks.without_torch.halves import torch_is_here

__all__ = ["ExampleCheck", "InputRange", "input_ranges"]

_IGNORED_BY_DEFAULT = -100  # the label that torch's losses leave out
_PLACES = ("inputs", "targets")
_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class InputRange:
    """Whole numbers that an operation takes from one of a batch's arrays.

    Attributes:
        place: 0 for inputs, 1 for targets.
        end: They are below it, and not below 0.
        ignored: A number that counts for nothing; None where there is none.
        operation: Who takes them.
    """

    place: int
    end: int
    ignored: int | None
    operation: Op

    def outside(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Marks of values that are out of range, as bool of their shape."""
        wrong: NDArray[np.bool_] = (values < 0) | (values >= self.end)
        return wrong if self.ignored is None else wrong & (values != self.ignored)


def input_ranges(program: TrainingProgram) -> list[InputRange]:
    """The ranges of labels and tokens that reach a loss or a table unchanged."""
    graph, found = program.training, []
    made = {t: o for o in graph.operations for t in o.outputs}

    def place_of(tensor: int) -> int:
        while tensor in made and made[tensor].name == "view":
            tensor = made[tensor].inputs[0]
        return graph.inputs.index(tensor) if tensor in graph.inputs else -1

    for one in graph.operations:
        if one.name in {"cross_entropy", "class_loss"}:
            place = place_of(one.inputs[1])
            end = graph.tensors[one.inputs[0]].shape[0]
            ignored = one.ints[0] if one.name == "class_loss" else _IGNORED_BY_DEFAULT
        elif one.name == "embedding":
            place, ignored = place_of(one.inputs[0]), None
            end = program.slots[one.parameters[0]].shape[0]
        else:
            continue
        if place >= 0:
            found.append(InputRange(place, end, ignored, one))
    return found


class ExampleCheck:
    """Looks at a device's examples by the program that its orders bring.

    Args:
        task: Prepares them.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._passed: tuple[Examples | None, bytes] = None, b""

    def __call__(self, examples: Examples, file: bytes) -> None:
        """Refuses examples that the program does not take, once for both.

        Raises:
            DataError: If a label or token is out of range or no whole number, or a
                value not finite in float32; where there is no torch, also if the shape
                is another.
            EngineError: If the program is damaged.
        """
        digest = sha256(file).digest()
        if self._passed[0] is examples and self._passed[1] == digest:
            return
        program = unpack_program(file)
        graph, ranges = program.training, input_ranges(program)
        for place, what in enumerate(_PLACES):
            value = graph.tensors[graph.inputs[place]]
            shape = next(self._parts(examples, place))[1].shape[1:]
            if shape != value.shape:
                if torch_is_here():  # it may take what the program does not
                    return
                raise DataError(
                    f"{self._whose(what)}: they have the shape {shape}, the model's "
                    f"program takes {value.shape}",
                    remedy="Give examples of the shape that the coordinator's have.",
                )
            own = [one for one in ranges if one.place == place]
            self._look(examples, place, own, whole=value.whole)
        self._passed = examples, digest

    def _look(
        self, examples: Examples, place: int, ranges: list[InputRange], *, whole: bool
    ) -> None:
        """Looks at every value of the inputs or the targets."""
        stored: NDArray[np.generic] = getattr(examples, _PLACES[place])
        if not (whole or self._prepares(place) or stored.dtype == np.float64):
            return  # nothing of it can be wrong
        for first, part in self._parts(examples, place):
            if whole and part.dtype.kind == "f":
                wrong, what = part != np.floor(part), "no whole numbers"
                self._refuse(place, stored, first, wrong, f"{what}, as the model takes")
            elif part.dtype.kind == "f":
                wrong = ~(np.abs(part) <= _LARGEST)
                self._refuse(place, stored, first, wrong, "not finite in float32")
            for one in ranges:
                taken = f"out of range: {one.operation.told()} takes 0 to {one.end - 1}"
                self._refuse(place, stored, first, one.outside(part), taken)

    def _refuse(
        self, place: int, stored: NDArray[np.generic], first: int,
        wrong: NDArray[np.bool_], what: str,
    ) -> None:  # fmt: skip
        rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
        if not rows.size:
            return
        at = first + int(rows[0])
        label = f", whose label is {stored[at]}," if place and stored.ndim == 1 else ""
        raise DataError(
            f"{self._whose(_PLACES[place])} of example {at} of those trained on{label} "
            f"are {what}",
            remedy="Correct or leave out such examples where the task reads its data; "
            "classes count from 0.",
        )

    def _whose(self, what: str) -> str:
        return f"task {self._task.name}: {what}"

    def _prepares(self, place: int) -> bool:
        return place == 0 and not self._task.prepares_nothing

    def _parts(
        self, examples: Examples, place: int
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first example, some as the model gets them) in bounded memory."""
        for first, part in blocks(getattr(examples, _PLACES[place])):
            yield first, native(part) if place else prepared_array(self._task, part)
