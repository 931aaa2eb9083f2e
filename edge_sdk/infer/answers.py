"""One example's outputs as a line: a class, labels, a map, or the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Meaning", "answer"]

_KINDS = ("classes", "binary", "labels", "values")
_SHOWN = 16  # values in a line; --json has all


@dataclass(frozen=True)
class Meaning:
    """The meaning of a bundle's outputs, as its manifest states it.

    Attributes:
        kind: "classes" along the first axis, "binary" (one yes or no at each place),
            "labels" that each hold or not, or "values".
        threshold: Above it an output of "binary" and "labels" says yes.
    """

    kind: str
    threshold: float = 0.0

    @classmethod
    def of(cls, manifest: Mapping[str, Any], labels: Sequence[str]) -> Meaning:
        """From a manifest; one without the entry has classes if it has labels."""
        entry = manifest.get("outputs")
        if isinstance(entry, Mapping) and entry.get("kind") in _KINDS:
            return cls(str(entry["kind"]), float(entry.get("threshold", 0.0)))
        return cls("classes" if labels else "values")


def answer(
    outputs: NDArray[np.float32], meaning: Meaning, labels: Sequence[str]
) -> str:
    r"""One example's outputs in a line, tabs between its parts.

    Args:
        outputs: (...) of one example.
        meaning: What they mean.
        labels: Names of classes or labels; may be fewer.

    Example:
        >>> answer(np.float32([0.5, 2.5]), Meaning("classes"), ["cat", "dog"])
        'dog\t2.5'
        >>> answer(np.float32([23.14021]), Meaning("values"), [])
        '23.1402'
    """
    if meaning.kind == "values" or not outputs.ndim or not outputs.size:
        return _values(outputs)
    if meaning.kind == "labels":
        found = np.flatnonzero(outputs.reshape(-1) > meaning.threshold)
        said = ", ".join(_name(labels, int(at)) for at in found) or "none"
        return f"{said}\t{_values(outputs)}"
    if meaning.kind == "binary":
        said_yes = (outputs > meaning.threshold).astype(np.int64)
        classes, size = said_yes, 2
        top = outputs
    else:
        classes, size, top = outputs.argmax(0), outputs.shape[0], outputs.max(0)
    if classes.size == 1:
        return f"{_name(labels, int(classes.item()))}\t{float(top.item()):.6g}"
    counts = np.bincount(classes.reshape(-1), minlength=size)
    shares = [
        f"{_name(labels, int(at))} {100 * counts[at] / classes.size:.1f} %"
        for at in np.argsort(-counts, kind="stable")
        if counts[at]
    ]
    places = " x ".join(str(n) for n in classes.shape if n > 1)
    return f"{places} places\t{', '.join(shares)}"


def _values(outputs: NDArray[np.float32]) -> str:
    flat = outputs.reshape(-1)
    more = f" ... ({flat.size} in all)" if flat.size > _SHOWN else ""
    return " ".join(f"{float(v):.6g}" for v in flat[:_SHOWN]) + more


def _name(labels: Sequence[str], at: int) -> str:
    return labels[at] if at < len(labels) else str(at)
