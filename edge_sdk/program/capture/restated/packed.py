"""Packed sequences, restated with every step of the padded batch.

How many rows `pack_padded_sequence` gives depends on values; a program's shapes do not.
So a packed sequence is the padded batch and its lengths: a recurrent layer goes through
all steps, what it makes of padding is left out, and a last state is that of the last
step which counts. Backward in time each sequence is turned round by its own length.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.utils import rnn

__all__ = ["PACKED", "PackedRows", "UnfollowedPackError", "keeps_order"]

_PACKS: Final = inspect.unwrap(rnn.pack_padded_sequence).__code__
_CELLS: Final = ("gru", "lstm", "rnn_tanh", "rnn_relu")


class UnfollowedPackError(AttributeError):
    """A use of a packed sequence that is neither a recurrent layer nor padding."""


class _Own:
    """Something of torch's that only known calls may take."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types, args, kwargs
        raise UnfollowedPackError(getattr(func, "__name__", ""))

    def __getitem__(self, _: Any) -> Any:
        raise UnfollowedPackError("a part")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnfollowedPackError(name)


class PackedRows(_Own):
    """The values of a packed sequence: a padded batch, the batch first.

    Attributes:
        whole: (batch, steps, features).
        lengths: (batch,), whole numbers.
    """

    device = torch.device("cpu")

    def __init__(self, whole: torch.Tensor, lengths: torch.Tensor) -> None:
        self.whole, self.lengths, self.dtype = whole, lengths, whole.dtype

    def dim(self) -> int:
        """Number of axes: steps of all examples lie on one."""
        return 2

    def size(self, _: int) -> int:
        """Number of features; nothing asks for the number of steps."""
        return int(self.whole.shape[2])


class _Sizes(_Own):
    """The number of examples at each step, as torch's own layers ask for it."""

    device = torch.device("cpu")

    def __init__(self, batch: int, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __getitem__(self, step: int) -> int:
        if step:
            raise UnfollowedPackError("batch_sizes")
        return self.batch

    def size(self, _: int) -> int:
        """Number of steps."""
        return self.steps


class _CellState(_Own):
    """LSTM's last cell states, of which programs know those of whole sequences."""

    def index_select(self, *_: Any) -> _CellState:
        """Itself: nothing sorts the batch."""
        return self


class _SameOrder(_Own):
    """The order of a batch that nothing sorts."""

    device = torch.device("cpu")

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in {"index_select", "__getitem__"}:
            return args[0]
        if name == "empty_like":
            return cls()
        return super().__torch_function__(func, types, args, kwargs)

    def to(self, *_: Any) -> _SameOrder:
        """Itself, wherever it is asked to lie."""
        return self

    cpu = to

    def scatter_(self, *_: Any) -> _SameOrder:
        """Itself: its inverse is the same order."""
        return self

    def numel(self) -> int:
        """A number for `arange`, whose values `scatter_` ignores."""
        return 1


def keeps_order(func: Any) -> bool:
    """Tell whether a call is the sort by length that packing begins with."""
    if func is not torch.sort:
        return False
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - who calls is told nowhere else
    while frame is not None and frame.f_code is not _PACKS:
        frame = frame.f_back
    return frame is not None


def _unsorted(lengths: torch.Tensor, **_: Any) -> tuple[torch.Tensor, _SameOrder]:
    return lengths, _SameOrder()


def _pack(
    x: torch.Tensor,
    lengths: torch.Tensor,
    batch_first: bool,  # noqa: FBT001 - torch's
) -> tuple[PackedRows, _Sizes]:
    whole = x if batch_first else x.transpose(0, 1)
    return PackedRows(whole, lengths), _Sizes(*whole.shape[:2])


def _pad(
    rows: PackedRows,
    sizes: _Sizes,
    batch_first: bool,  # noqa: FBT001 - torch's
    value: float,
    steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The padded batch; it has the length of what was packed, or `total_length`."""
    del sizes
    whole = torch.where(_counts(rows), rows.whole, torch.full_like(rows.whole, value))
    whole = F.pad(whole, (0, 0, 0, steps - whole.shape[1]), value=value)
    return (whole if batch_first else whole.transpose(0, 1)), rows.lengths


def _counts(rows: PackedRows) -> torch.Tensor:
    """(batch, steps, 1): true at each example's own steps."""
    steps = torch.arange(rows.whole.shape[1])
    return (steps < rows.lengths.unsqueeze(1)).unsqueeze(2)


def _turned(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Each example's own steps from the last to the first, then zeros."""
    steps = torch.arange(x.shape[1])
    places = lengths.reshape(-1, 1, 1) - 1 - steps.unsqueeze(1)
    return (places == steps).to(x.dtype) @ x


def _last(y: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    row = (torch.arange(y.shape[1]) == (lengths - 1).unsqueeze(1)).to(y.dtype)
    return (row.unsqueeze(1) @ y).squeeze(1)


def _recurrent(cell: str) -> Callable[..., Any]:
    function: Any = getattr(torch, cell)

    def run(
        rows: PackedRows, sizes: _Sizes, hx: Any, weights: Any, *options: Any
    ) -> tuple[Any, ...]:
        del sizes
        biases, layers, dropout, trains, both = options
        ways, each = 1 + int(both), 4 if biases else 2
        states = hx if cell == "lstm" else (hx,)
        x, lengths, last = rows.whole, rows.lengths, []
        for layer in range(layers):
            if layer and dropout and trains:
                x = F.dropout(x, dropout, training=True)
            found = []
            for way in range(ways):
                at = layer * ways + way
                own = [state[at : at + 1] for state in states]
                given = weights[at * each : (at + 1) * each]
                source = _turned(x, lengths) if way else x
                start: Any = own if cell == "lstm" else own[0]
                form = biases, 1, 0.0, trains, False, True  # one way, the batch first
                y = function(source, start, given, *form)[0]
                last.append(_last(y, lengths))
                found.append(_turned(y, lengths) if way else y)
            x = torch.cat(found, 2) if both else found[0]
        result = PackedRows(x, lengths), torch.stack(last)
        return (*result, _CellState()) if cell == "lstm" else result

    return run


PACKED: Final[dict[str, Callable[..., Any]]] = {
    "sort": _unsorted,
    "_pack_padded_sequence": _pack,
    "_pad_packed_sequence": _pad,
    **{cell: _recurrent(cell) for cell in _CELLS},
}
