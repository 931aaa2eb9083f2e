"""Records and leaves of a log, read with care: what cannot be is said, not raised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge_sdk.proof.chain import record_line

__all__ = ["MOST", "Found", "misformed", "number", "object_of", "text"]

MOST = 100  # sentences; a proof that is wrong throughout need not be told line by line
_LONGEST = 64 << 20  # bytes of one line
_TEXTS = ("task", "device", "update")  # of a counted update's leaf
_NUMBERS = ("density", "examples", "norm", "scale", "weight")
T = TypeVar("T")


@dataclass
class Found:
    """Findings about a proof, in sentences."""

    sentences: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        """Adds one, unless there are many."""
        if len(self.sentences) < MOST:
            self.sentences.append(sentence)


def object_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is none, or is not in its one form.

    The form is that of `record_line`: the same record has the same bytes.
    """
    if len(line) > _LONGEST:
        return None
    try:
        found = json.loads(line)
        same = isinstance(found, dict) and record_line(found) == line
    except (ValueError, RecursionError):
        return None
    return found if same else None


def text(record: Mapping[str, Any], name: str) -> str:
    """A text of a record; empty where it is none."""
    value = record.get(name)
    return value if isinstance(value, str) else ""


def number(record: Mapping[str, Any], name: str) -> float:
    """A number of a record; -1 where it is none."""
    value = record.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return -1


def misformed(leaf: Mapping[str, Any]) -> str:
    """The first field of a counted update's leaf that no run writes so; "" if none."""
    for name in _TEXTS:
        if not text(leaf, name):
            return name
    for name in _NUMBERS:
        if number(leaf, name) < 0:
            return name
    metrics = leaf.get("metrics")
    if not isinstance(metrics, Mapping):
        return "metrics"
    plain = (v for v in metrics.values() if v is not None)  # null stands for NaN
    return "" if all(type(v) in (int, float) for v in plain) else "metrics"
