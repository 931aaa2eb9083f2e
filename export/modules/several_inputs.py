"""Modules of several inputs: each by itself, and all as the parts of one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.datasets.rows import rows_of
from edge_sdk.errors import DataError, ExportError
from edge_sdk.infer.input_parts import InputPart, joined_inputs
from edge_sdk.tasks.example_inputs import LeastRows
from edge_sdk.tasks.trial_step import OperatorWatch
from edge_sdk.tasks.user_errors import told
from export.modules.arguments import called, most_taken, names_of, needed
from export.modules.loaded_inputs import arrays_of, is_set
from export.modules.shapes import checked_shape

__all__ = ["SeveralInputs", "take_joined"]

_TRIED = 2  # examples
_MOST_TRIED = 5  # inputs whose kinds are found by trying: 3 ** 5 runs


class SeveralInputs:
    """The inputs of a module, read from shapes, examples or both.

    Args:
        model: The module, as it is.
        shapes: Of each input, in order or by name; None takes those of `calibration`.
        calibration: Arrays in order or by name, with `targets` last or by that name; a
            pair (such inputs, targets); a ``Dataset`` or ``DataLoader`` of examples in
            one of these forms; or None.
        name: Of the model, for messages.
        most: How many examples are taken of a data set or loader.

    Raises:
        ExportError: If the forward takes other inputs, or there are no shapes.
        DataError: If the examples are not of these inputs.

    Attributes:
        names: Of the inputs.
        arrays: Of each the examples; None without.
        targets: None without.
    """

    def __init__(
        self, model: nn.Module, shapes: Any, calibration: Any, name: str, most: int
    ) -> None:
        if is_set(calibration):
            calibration = _targets_named(arrays_of(calibration, most), model)
        self._name = name
        self._model = model
        self.targets: NDArray[Any] | None = None
        self.arrays: list[NDArray[Any]] | None = None
        self._shapes: list[Any] | None = None
        if shapes is not None:
            self._shapes = _ordered(model, shapes, name)
            wanted = [*shapes] if isinstance(shapes, Mapping) else len(self._shapes)
            self.names = names_of(model, wanted, name)
        else:
            self.names = names_of(model, self._given(calibration), name)
        if calibration is not None:
            given = self._inputs(calibration)
            self.arrays = [
                rows_of(one, f"calibration: {key}")[0]
                for key, one in zip(self.names, given, strict=True)
            ]

    def _given(self, calibration: Any) -> int | list[str]:
        """Names or number of the inputs among examples whose shapes nobody gave."""
        pair = isinstance(calibration, tuple) and len(calibration) == 2
        if pair and isinstance(calibration[0], tuple | Mapping):
            calibration = calibration[0]
        if isinstance(calibration, Mapping):
            return [key for key in calibration if key != "targets"]
        count, least = len(calibration), len(needed(self._model))
        if least > 1 and count == least + 1:  # the last are targets
            return least
        most = most_taken(self._model)
        if pair and most == 1:  # which is a tuple
            return count
        return count if most is None else min(count, max(least, most))

    def _inputs(self, given: Any) -> list[Any]:
        """The inputs in their order; targets are kept."""
        count = len(self.names)
        if (
            isinstance(given, tuple)
            and len(given) == 2
            and isinstance(given[0], tuple | list | Mapping)
        ):
            given, self.targets = given[0], _targets(given[1])
        elif isinstance(given, tuple | list) and len(given) == count + 1:
            given, self.targets = given[:count], _targets(given[count])
        elif isinstance(given, Mapping) and "targets" in given.keys() - {*self.names}:
            self.targets = _targets(given["targets"])
            given = {key: one for key, one in given.items() if key != "targets"}
        if isinstance(given, Mapping) and given.keys() == {*self.names}:
            return [given[key] for key in self.names]
        if isinstance(given, tuple | list) and len(given) == count:
            return list(given)
        said = type(given).__name__
        if isinstance(given, Mapping | tuple | list):
            said = f"{len(given)} arrays" if given else "nothing"
        if isinstance(given, Mapping):
            said = ", ".join(map(str, given)) or "nothing"
        raise DataError(
            f"calibration has {said}, the model takes {', '.join(self.names)}",
            remedy="Give a tuple of one array per input, a dictionary by these names "
            "(targets beside them), or the pair (such inputs, targets).",
        )

    def parts(self, model: nn.Module) -> tuple[InputPart, ...]:
        """Each input with its shape and the kind of numbers that the model takes.

        Args:
            model: The copy to export, in evaluation mode.

        Raises:
            ExportError: If the model takes no such inputs; has its own reason.
            DataError: If examples have other shapes.
        """
        arrays = self.arrays
        if self._shapes is None:
            shapes = [checked_shape(one.shape[1:]) for one in arrays or ()]
        else:
            shapes = [checked_shape(one) for one in self._shapes]
        if arrays is None:
            return _found(model, self.names, shapes, self._name)
        kinds = {"f": "float32", "b": "bool"}
        return tuple(
            InputPart(name, shape, kinds.get(array.dtype.kind, "int64"))
            for name, shape, array in zip(self.names, shapes, arrays, strict=True)
        )

    def rows(self, parts: Sequence[InputPart], most: int) -> Any:
        """Examples as the file takes them, and targets; None without examples."""
        if self.arrays is None:
            return None
        batch = joined_inputs(self.arrays, parts, "calibration")
        targets = self.targets
        if targets is not None and len(targets) != len(batch):
            raise DataError(
                f"calibration has {len(batch)} inputs and {len(targets)} targets",
                remedy="Give one target per example.",
            )
        return batch[:most], None if targets is None else targets[:most]


def _targets_named(given: Any, model: nn.Module) -> Any:
    """A dictionary whose labels are its targets, where forward does without them."""
    if not isinstance(given, Mapping) or "targets" in given:
        return given
    own = needed(model)
    found = next((k for k in ("labels", "label") if k in given and k not in own), "")
    return {"targets" if key == found else key: one for key, one in given.items()}


def _targets(given: Any) -> NDArray[Any]:
    return rows_of(given, "calibration: targets")[0]


def _ordered(model: nn.Module, shapes: Any, name: str) -> list[Any]:
    """Shapes in the order of the forward's arguments."""
    if not isinstance(shapes, Mapping):
        return list(shapes)
    return [shapes[key] for key in names_of(model, shapes, name)]


def _found(
    model: nn.Module, names: list[str], shapes: list[tuple[int, ...]], name: str
) -> tuple[InputPart, ...]:
    """Kinds of numbers that the model takes: the first that it runs on."""
    some = len(shapes) <= _MOST_TRIED
    kinds = ("float32", "int64", "bool") if some else ("float32",)
    first: Exception | None = None
    for chosen in product(kinds, repeat=len(shapes)):
        rows = LeastRows()
        zeros = [
            torch.zeros(_TRIED, *shape, dtype=getattr(torch, kind))
            for shape, kind in zip(shapes, chosen, strict=True)
        ]
        try:
            with torch.no_grad(), OperatorWatch(rows.saw):
                called(model, names, zeros)
        except Exception as error:  # noqa: BLE001 - a person's code raises anything
            first = first or error
            continue
        return tuple(
            InputPart(key, shape, kind, rows.least or 2)
            for key, shape, kind in zip(names, shapes, chosen, strict=True)
        )
    said = ", ".join(f"{n} {shape}" for n, shape in zip(names, shapes, strict=True))
    raise ExportError(
        f"{name} takes no inputs of these shapes: {said}: "
        f"{told(first) if first else ''}",
        remedy="Give each shape without the batch axis; calibration= takes inputs "
        "where made-up ones do not fit.",
    )


class _Joined(nn.Module):
    """A class that `take_joined` puts before a module's own."""

    _input_parts: tuple[InputPart, ...]
    _own_forward: Any

    def forward(self, *given: torch.Tensor) -> Any:
        """The module's outputs for its inputs, or for rows of all, (n, values)."""
        parts = self._input_parts
        if not _are_apart(given, parts):
            pieces = torch.split(given[0], [part.size for part in parts], dim=1)
            given = tuple(
                piece.reshape(-1, *part.shape)
                if part.dtype == "float32"
                else piece.reshape(-1, *part.shape).to(getattr(torch, part.dtype))
                for piece, part in zip(pieces, parts, strict=True)
            )
        names = [part.name for part in parts]
        return called(self._own_forward or super().forward, names, given)


def _are_apart(given: Sequence[torch.Tensor], parts: Sequence[InputPart]) -> bool:
    """Tell inputs from a row of all, which of one input has another shape or dtype."""
    if len(given) > 1 or len(parts) > 1:
        return len(given) == len(parts)
    alike = tuple(given[0].shape[1:]) == parts[0].shape
    return alike and given[0].dtype is getattr(torch, parts[0].dtype)


def take_joined(model: nn.Module, parts: Sequence[InputPart], name: str) -> None:
    """Lets a copy take rows of all its inputs, too; its weights keep their names.

    Raises:
        ExportError: If hooks look at its inputs.
    """
    if model._forward_pre_hooks:  # noqa: SLF001 - torch has no other way
        raise ExportError(
            f"{name} has hooks before its forward, and several inputs",
            remedy="Remove the hooks, or do in forward what they do.",
        )
    own = type(model)
    model._own_forward = vars(model).pop("forward", None)  # noqa: SLF001
    model._input_parts = tuple(parts)  # type: ignore[assignment]  # noqa: SLF001
    model.__class__ = type(own.__name__, (_Joined, own), {"__module__": own.__module__})
