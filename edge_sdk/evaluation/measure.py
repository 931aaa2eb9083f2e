"""`Measure`: the meaning of a model's outputs, and which share of them is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.metric import Metric, mean

__all__ = ["VALUES", "Kind", "Measure", "measure_from"]

Kind: TypeAlias = Literal["classes", "one-hot", "binary", "labels", "values"]


@dataclass(frozen=True)
class Measure:
    """The meaning of a model's outputs, and which share of them can be right.

    Attributes:
        kind: "classes" along axis 1, "one-hot" likewise with targets of that form,
            "binary" at each place, "labels" that each hold or not, or "values".
        threshold: Of "binary" and "labels": above it an output says yes.
        ignored: Classes that the loss passes over, as its ``ignore_index``.
    """

    kind: Kind
    threshold: float = 0.0
    ignored: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Name of the share that is right; empty where there is none."""
        if self.kind == "values":
            return ""
        return "label_accuracy" if self.kind == "labels" else "accuracy"

    def answers(self, given: Any) -> NDArray[Any]:
        """int64 classes, or booleans, of outputs; the outputs themselves for values."""
        outputs: NDArray[Any] = np.asarray(given)
        if self.kind in {"classes", "one-hot"}:
            found: NDArray[Any] = outputs.argmax(1)
            return found
        return outputs if self.kind == "values" else outputs > self.threshold

    def right(self, outputs: Any, targets: Any) -> tuple[int, int]:
        """(answers that are right, answers that count); never more than all.

        Args:
            outputs: (N, ...) of the model; an array, or a tensor of torch's.
            targets: (N, ...) as the loss takes them; likewise.
        """
        outputs, targets = np.asarray(outputs), np.asarray(targets)
        said = self.answers(outputs)
        if self.kind == "classes":
            counts = (targets >= 0) & (targets < outputs.shape[1])
            for one in self.ignored:
                counts &= targets != one
            return int(((said == targets) & counts).sum()), int(counts.sum())
        wanted = targets.argmax(1) if self.kind == "one-hot" else targets > 0.5
        return int((said == wanted.reshape(said.shape)).sum()), said.size

    def metric(self) -> Metric | None:
        """The share that is right, as a metric; None for values."""
        if not self.name:
            return None
        return Metric(self.name, self.right, mean, range=(0, 1))

    def text(self) -> str:
        """The measure as a word that `measure_from` reads.

        Example:
            >>> Measure("classes", ignored=frozenset({255})).text()
            'classes 0.0 255'
        """
        return " ".join(
            [self.kind, f"{self.threshold!r}", *map(str, sorted(self.ignored))]
        )


VALUES = Measure("values")


def measure_from(text: str) -> Measure:
    """The measure of a word; `VALUES` of one that this version does not know.

    Example:
        >>> measure_from("binary 0.5"), measure_from("colours").kind
        (Measure(kind='binary', threshold=0.5, ignored=frozenset()), 'values')
    """
    kinds: tuple[Kind, ...] = ("classes", "one-hot", "binary", "labels")
    name, *more = text.split()[:70] or [""]
    found = next((kind for kind in kinds if kind == name), None)
    try:
        threshold, *ignored = more or ["0.0"]
        limits = float(threshold), frozenset(map(int, ignored))
    except ValueError:
        return VALUES
    return VALUES if found is None else Measure(found, *limits)
