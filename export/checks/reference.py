"""Outputs that an export is measured against: torch's, in float32 and in float64.

| torch's own float32 error | compared with | allowed |
|---|---|---|
| small | float64 | 1e-5, or 4 times that error where this is more |
| large, or no float64 | float32 | 1e-5 |

A deep network's float32 outputs depend on the order of its sums: of a ResNet50 torch's
are 1.2e-5 from float64, onnxruntime's 0.8e-5, and both 1.4e-5 from each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import ExportError
from edge_sdk.torch_modules.copying import copy_model
from export.checks.outputs import AT_ONCE, joined, outputs_of
from export.rebuild import Source

__all__ = [
    "OWN",
    "PARITY",
    "UNSTABLE",
    "Reference",
    "distance",
    "mixing_told",
    "reference_of",
]

PARITY = 1e-5  # relative max-norm; measured 1e-7..7e-7 on CNNs and ResNet18
OWN = 4.0  # times torch's own error: another order of sums gave 0.7 to 1.3 times
# Above, rounding decides something (a comparison, an argmax): no float64 says what
# float32 should have given.
UNSTABLE = 2.5e-4

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Reference:
    """Outputs of the module on the compared inputs.

    Attributes:
        outputs: float32 (n, ...), as `Source.predict` gives them.
        exact: The same in float64; None where the module has none, or rounding decides.
        sizes: Values of each output of one example: what is joined in `outputs`.
        own: Distance of `outputs` from `exact`; None without.
    """

    outputs: NDArray[np.float32]
    exact: NDArray[np.float64] | None
    sizes: tuple[int, ...]
    own: float | None

    @property
    def limit(self) -> float:
        """Distance that an exact format may have."""
        return PARITY if self.own is None else max(PARITY, OWN * self.own)

    def error(self, outputs: Array) -> float:
        """Distance of a file's outputs, of the same shape, from the reference."""
        wanted = self.outputs if self.exact is None else self.exact
        return distance(outputs, wanted, self.sizes)


def reference_of(source: Source, batch: Array) -> Reference:
    """Outputs of the source's module, computed twice.

    Raises:
        DataError: If the module fails on some of the inputs.
    """
    outputs, exact = source.predict(batch), _in_double(source.model, batch)
    sizes = tuple(leaf[0].numel() for leaf in outputs_of(source.model, batch[:2]))
    own = None
    if exact is not None and exact.shape == outputs.shape and np.isfinite(exact).all():
        own = distance(outputs, exact, sizes)
    if own is None or not own <= UNSTABLE:
        return Reference(outputs, None, sizes, None)
    return Reference(outputs, exact, sizes, own)


@contextmanager
def mixing_told(source: Source, batch: Array, wanted: Reference) -> Iterator[None]:
    """Advises on outputs that differ because a module mixes the examples of a batch.

    Raises:
        ExportError: As the body, with another remedy.
    """
    try:
        yield
    except ExportError as error:
        alone = source.predict(batch[:1])
        beside = wanted.outputs[:1]
        if alone.shape == beside.shape and (
            distance(alone, beside, wanted.sizes) <= UNSTABLE
        ):
            raise
        raise ExportError(
            f"{error}; its outputs depend on what else is in the batch",
            remedy="Take means over the batch, its size, and numbers of its values "
            "(.item()) out of forward; onnx formats run a whole batch with --batch "
            "dynamic.",
        ) from error


def _in_double(model: nn.Module, batch: Array) -> NDArray[np.float64] | None:
    """Outputs in float64; None of a module that computes in float32 alone."""
    wide = batch.astype(np.float64) if batch.dtype.kind == "f" else batch
    try:
        model = copy_model(model).double()
        parts = [
            joined([leaf.double() for leaf in outputs_of(model, some)])
            for some in np.split(wide, range(AT_ONCE, len(wide), AT_ONCE))
        ]
    except Exception:  # noqa: BLE001 - a module's own code casts as it likes
        return None
    return np.concatenate(parts)


def distance(outputs: Array, wanted: Array, sizes: Sequence[int]) -> float:
    """Largest difference over the largest value, of the output where it is largest.

    Args:
        outputs: (n, ...); several outputs flat, one after the other: (n, values).
        wanted: Likewise.
        sizes: Values of each output of one example.

    Example:
        >>> distance(np.array([[100.0, 2.0]]), np.array([[100.0, 1.0]]), (1, 1))
        1.0
    """
    count = len(outputs)
    if len(sizes) < 2 or sum(sizes) * count != outputs.size:
        sizes = (outputs.size // max(count, 1),)
    ends = np.cumsum(sizes)[:-1]
    off = np.abs(outputs.astype(np.float64) - wanted).reshape(count, -1)
    size = np.abs(wanted.astype(np.float64)).reshape(count, -1)
    return max(
        float(part.max(initial=0.0) / (largest.max(initial=0.0) or 1.0))
        for part, largest in zip(
            np.split(off, ends, axis=1), np.split(size, ends, axis=1), strict=True
        )
    )
