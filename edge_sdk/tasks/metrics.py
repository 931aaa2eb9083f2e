"""Measure of a model beside its loss, from the loss and its outputs' shape.

| outputs | targets | loss | measure |
|---|---|---|---|
| (N, C, ...) | (N, ...) classes | least where that output is largest | accuracy |
| (N, C, ...) | (N, C, ...) one 1 in C | likewise, blind to a common shift | accuracy |
| (N,), (N, 1, ...) | as many 0 and 1 | falls towards the right side of 0 | accuracy |
| (N,), (N, 1, ...) | as many 0 and 1 | the same in [0, 1], about 0.5 | accuracy |
| (N, C) | (N, C) of 0 and 1 | either, in each output | label_accuracy |
| anything else | | | none: the loss alone |

Which loss it is does not matter, only what it does: it is asked for a few made-up
outputs. A squared error grows again beyond the target, so a regression onto 0 and 1 has
no accuracy. An autoencoder, whose targets are its inputs, has none either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch

from edge_sdk.evaluation.measure import VALUES, Measure

__all__ = ["VALUES", "Measure", "guess", "measured_by"]

Loss: TypeAlias = Callable[[Any, torch.Tensor], Any]
_SURE = 10.0  # an output that is sure
_ASKED = 64  # classes that are asked for at most


def measured_by(loss: Loss, outputs: Any, targets: torch.Tensor) -> Measure:
    """The measure of a loss for outputs and targets of these shapes and dtypes.

    Args:
        loss: The task's.
        outputs: What the model gave for a few examples.
        targets: All targets there are, or as many as one wants believed: whether they
            are 0 and 1 only is looked up. As the loss takes them; (n, ...).

    Example:
        >>> from torch.nn import functional as F
        >>> logits, classes = torch.zeros(2, 3), torch.tensor([0, 2])
        >>> measured_by(F.cross_entropy, logits, classes).name
        'accuracy'
        >>> measured_by(F.mse_loss, logits, logits).name
        ''
    """
    if not isinstance(outputs, torch.Tensor) or outputs.dim() < 1:
        return VALUES
    shape, aims = tuple(outputs.shape[1:]), tuple(targets.shape[1:])
    whole = not targets.is_floating_point()
    if whole and targets.dtype is not torch.bool and _has_classes(shape, aims):
        return _classes(loss, shape, targets.dtype)
    if not _zero_or_one(targets):
        return VALUES
    asked = _Asked(loss, shape, aims, targets.dtype)
    if shape[:1] in {(), (1,)}:
        return asked.binary() if _same_places(shape, aims) else VALUES
    return _many(asked, targets) if shape == aims else VALUES


def guess(loss: Loss, outputs: Any) -> Measure:
    """The measure by the loss and the outputs' shape alone, where there are no targets.

    Classes are tried first, then places that each hold or not, then labels.
    """
    if not isinstance(outputs, torch.Tensor) or outputs.dim() < 1:
        return VALUES
    shape = tuple(outputs.shape[1:])
    tries = [(shape, torch.float32)]
    if shape and shape[0] > 1:
        tries.insert(0, (shape[1:], torch.int64))
    elif shape:
        tries += [(shape[1:], torch.float32), (shape[1:], torch.int64)]
    for aims, dtype in tries:
        targets = torch.zeros(2, *aims, dtype=dtype)
        found = measured_by(loss, outputs, targets)
        if found.name:
            return found
    return VALUES


def _many(asked: _Asked, targets: torch.Tensor) -> Measure:
    """Several outputs for as many targets of 0 and 1: one of them holds, or any."""
    if bool((targets.sum(1) == 1).all()) and asked.picks_one():
        return Measure("one-hot")
    found = asked.binary() if len(asked.shape) == 1 else VALUES
    return Measure("labels", found.threshold) if found.name else VALUES


def _has_classes(shape: tuple[int, ...], aims: tuple[int, ...]) -> bool:
    return len(shape) >= 1 and shape[0] > 1 and shape[1:] == aims


def _same_places(shape: tuple[int, ...], aims: tuple[int, ...]) -> bool:
    """Return whether one output answers one target; a lone axis may be left out."""
    drop = shape[1:] if shape and shape[0] == 1 else shape
    return aims in {shape, drop, (1, *drop)}


def _zero_or_one(targets: torch.Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def _value(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> float | None:
    """The loss; None if it refuses such outputs, or gives no number."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = float(loss(outputs, targets))
    except Exception:  # noqa: BLE001 - a refusal is an answer
        return None
    return None if found != found else found  # noqa: PLR0124 - a NaN


def _classes(loss: Loss, shape: tuple[int, ...], dtype: torch.dtype) -> Measure:
    """Classes, if the loss of each is least where its own output is the largest."""
    count = shape[0]
    asked = range(count) if count <= _ASKED else (0, 1, count // 2, count - 1)
    sharper, ignored = False, set()
    for aim in asked:
        targets = torch.full((2, *shape[1:]), aim, dtype=dtype)
        found = [_value(loss, _sure(shape, one), targets) for one in asked]
        if all(value is None for value in found):
            ignored.add(aim)
            continue
        own = found[asked.index(aim)]
        others = [v for v, one in zip(found, asked, strict=True) if one != aim]
        if own is None or any(v is not None and v < own for v in others):
            return VALUES
        sharper |= any(v is not None and v > own for v in others)
    return Measure("classes", ignored=frozenset(ignored)) if sharper else VALUES


def _sure(shape: tuple[int, ...], place: int) -> torch.Tensor:
    outputs = torch.zeros(2, *shape)
    outputs[:, place] = _SURE
    return outputs


@dataclass(frozen=True)
class _Asked:
    """A loss that is asked for outputs all alike."""

    loss: Loss
    shape: tuple[int, ...]
    aims: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, output: float, target: int) -> float | None:
        outputs = torch.full((2, *self.shape), output)
        return _value(
            self.loss, outputs, torch.full((2, *self.aims), target, dtype=self.dtype)
        )

    def binary(self) -> Measure:
        """Yes above 0 for logits, above 0.5 for probabilities, or no such thing."""
        if self._falls((-1.0, 0.0, 1.0)) and self._stays(1.0, 20.0, -1.0, -20.0):
            return Measure("binary")
        if self._falls((0.1, 0.4, 0.6, 0.9)) and self._stays(0.9, 2.0, 0.1, -1.0):
            return Measure("binary", 0.5)
        return VALUES

    def picks_one(self) -> bool:
        """Return whether the outputs compete: a common shift changes nothing."""
        places = range(self.shape[0])
        asked = places if len(places) <= _ASKED else (0, 1, self.shape[0] - 1)
        for aim in asked:
            targets = torch.zeros(2, *self.aims, dtype=self.dtype)
            targets[:, aim] = 1
            found = [
                _value(self.loss, _sure(self.shape, one), targets) for one in asked
            ]
            own = found[asked.index(aim)]
            moved = _value(self.loss, _sure(self.shape, aim) + 1.0, targets)
            if own is None or moved is None or abs(moved - own) > 1e-3 * (1 + abs(own)):
                return False
            if any(v is None or v < own for v in found) or max(found) == own:  # type: ignore[type-var]
                return False
        return True

    def _falls(self, rising: tuple[float, ...]) -> bool:
        """Nearer to the target is better, on either side, strictly."""
        yes, no = [self(v, 1) for v in rising], [self(v, 0) for v in rising]
        pairs = [*pairwise(reversed(yes)), *pairwise(no)]
        return all(a is not None and b is not None and a < b for a, b in pairs)

    def _stays(self, high: float, higher: float, low: float, lower: float) -> bool:
        """Beyond the target is not worse, or is not allowed."""
        for aim, near, far in ((1, high, higher), (0, low, lower)):
            near_loss, far_loss = self(near, aim), self(far, aim)
            if near_loss is None:
                return False
            if far_loss is not None and far_loss > near_loss + 1e-6:
                return False
        return True
