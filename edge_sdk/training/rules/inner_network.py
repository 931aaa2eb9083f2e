"""`InnerNetwork`: the gradients of a smaller network inside a device's own.

It is computed by a model of its own size, fewer weights and units, where its engine
gives one. The own model computes it elsewhere, with all other values at 0: the same
gradients, at the time of the own network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.sparse import Mask
from edge_sdk.training.engine import Arrays, TrainingModel, TrainingSession
from edge_sdk.wire.values import Values

__all__ = ["InnerNetwork"]

Array: TypeAlias = NDArray[Any]


class InnerNetwork:
    """One member of a family inside the own network, for one task.

    Args:
        mask: Its mask.
        own: The own mask, in which it is nested.
        model: Of its size, its entries as narrow as its units; None takes the own.

    Attributes:
        places: Masked layer to the positions of its values among the own: (nnz,).
    """

    def __init__(
        self, mask: Mask, own: Mask, model: TrainingModel | None = None
    ) -> None:
        self.places = {name: mask.within(own, name) for name in own}
        self._counts, self._model = own.counts, model
        self._session: TrainingSession | None = None
        self._beside: TrainingSession | None = None

    def load(self, start: Values) -> None:
        """Takes over what no step moves from the own network's base."""
        if self._model is None:
            return
        values = {n: start.masked[n][at] for n, at in self.places.items()}
        shapes = {n: a.shape for n, a in self._model.dense().items()}
        dense = {n: start.dense[n][_corner(shape)] for n, shape in shapes.items()}
        self._model.load(values, dense)

    def backward(
        self, session: TrainingSession, index: NDArray[np.int64]
    ) -> tuple[float, dict[str, Array]]:
        """Mean loss over a batch, and gradients at the places of the own values.

        The own values, buffers and random states are as after a batch of the own
        network's; the session's gradients are of no use any more.

        Args:
            session: Of the own network.
            index: Positions of the batch's examples.
        """
        if self._model is None:
            with self._alone(session):
                loss = session.backward(index)
            found = session.gradients()
            return loss, {n: self._held(n, g) for n, g in found.items()}
        inner = self._inner(session, self._model)
        self._copy(session.weights, inner.weights)
        self._copy(session.buffers, inner.buffers)
        loss = inner.backward(index)
        weights, found = session.weights, inner.gradients()
        return loss, {n: self._spread(n, g, weights[n]) for n, g in found.items()}

    def _inner(self, session: TrainingSession, model: TrainingModel) -> TrainingSession:
        if self._beside is None or self._session is not session:
            self._session, self._beside = session, session.beside(model)
        return self._beside

    def _copy(self, whole: Arrays, inner: Arrays) -> None:
        """Own values into those of the model of its size."""
        for name, array in inner.items():
            if name in self.places:
                np.take(whole[name], self.places[name], out=array)
            else:
                array[...] = whole[name][_corner(array.shape)]

    def _spread(self, name: str, gradient: Array, like: Array) -> Array:
        """A gradient among zeros, of the own value's shape."""
        found: Array = np.zeros(like.shape, gradient.dtype)
        if name in self.places:
            found[self.places[name]] = gradient
        else:
            found[_corner(gradient.shape)] = gradient
        return found

    def _held(self, name: str, gradient: Array) -> Array:
        if name not in self.places:
            return np.array(gradient)
        held: Array = gradient[self.places[name]]
        return self._spread(name, held, gradient)

    @contextmanager
    def _alone(self, session: TrainingSession) -> Iterator[None]:
        """Has the own model be this network.

        What its batch changes in buffers, norm statistics above all, is put back: they
        are the own network's.
        """
        kept: Mapping[str, Array] = session.kept
        values = {name: value.copy() for name, value in kept.items()}
        before = {name: buffer.copy() for name, buffer in session.buffers.items()}
        for name, value in kept.items():
            held = value[self.places[name]]
            value[...] = 0
            value[self.places[name]] = held
        try:
            yield
        finally:
            for name, value in kept.items():
                value[...] = values[name]
            for name, was in before.items():
                session.buffers[name][...] = was


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """A network by units has the first of each."""
    return tuple(slice(0, n) for n in shape)
