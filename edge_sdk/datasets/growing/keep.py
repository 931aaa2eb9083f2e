"""Windows and reservoirs: which examples of a source that grows a device keeps.

A reservoir keeps those whose keyed digests are the smallest: every example of the
source is as likely as any other, and which ones they are follows from the examples and
the seed alone, so a restart keeps the same ones and has nothing to remember.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.growing.timed import TimedExamples
from edge_sdk.errors import DataError, SettingsError
from edge_sdk.tasks.arrays import check_present
from edge_sdk.tasks.task import Examples

__all__ = ["KeepRule", "kept", "parse_keep"]

_LOOKED = 64  # examples that are read before their file is looked at again
_UNITS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0, "week": 604_800.0}
_TEXT = re.compile(
    r"(?P<reservoir>reservoir of )?(?P<count>[1-9][0-9]{0,11}) ?"
    r"(?P<unit>examples?|minutes?|hours?|days?|weeks?)?"
)


@dataclass(frozen=True)
class KeepRule:
    """Rule of what a device keeps of a source.

    Attributes:
        kind: All examples, those of the last seconds, the newest, or a random choice.
        most: Seconds, or a number of examples.
    """

    kind: Literal["all", "seconds", "newest", "reservoir"] = "all"
    most: float = 0.0


def parse_keep(text: str) -> KeepRule:
    """A setting such as ``30 days``, ``20000 examples`` or ``reservoir of 5000``.

    Raises:
        SettingsError: If it is none of them.

    Example:
        >>> parse_keep("30 days")
        KeepRule(kind='seconds', most=2592000.0)
        >>> parse_keep("reservoir of 5000")
        KeepRule(kind='reservoir', most=5000)
    """
    if not text:
        return KeepRule()
    found = _TEXT.fullmatch(text.strip())
    unit = ((found and found["unit"]) or "example").removesuffix("s")
    if found is None or (found["reservoir"] and unit != "example"):
        raise SettingsError(
            f"key keep: {text!r} is no window and no reservoir",
            remedy='Give "30 days", "20000 examples", "reservoir of 5000", or leave it '
            "out to keep all.",
        )
    count = int(found["count"])
    if unit in _UNITS:
        return KeepRule("seconds", count * _UNITS[unit])
    return KeepRule("reservoir" if found["reservoir"] else "newest", count)


def kept(examples: Examples, keep: KeepRule, *, now: float, seed: int) -> Examples:
    """The examples that are kept, in the order of the source.

    A window of the newest is a view of the same memory.

    Args:
        examples: Of the source, the newest last.
        keep: What to keep.
        now: Seconds since 1970, UTC.
        seed: Of a reservoir.

    Raises:
        DataError: If a window of time holds nothing, or the examples have no times.
    """
    if keep.kind == "seconds":
        return _recent(examples, now - keep.most)
    most = int(keep.most)
    if keep.kind == "all" or len(examples) <= most:
        return examples
    if keep.kind == "newest":
        return examples.take(slice(len(examples) - most, None))
    keys = _keys(examples, seed)
    return examples.take(np.sort(np.argsort(keys, kind="stable")[:most]))


def _recent(examples: Examples, since: float) -> Examples:
    times = examples.times if isinstance(examples, TimedExamples) else None
    if times is None:
        raise DataError(
            "keep is a window of time, and the examples say no times",
            remedy="Have train_data return edge_sdk.datasets.growing.TimedExamples, or "
            'keep a number: keep = "20000 examples".',
        )
    found = np.flatnonzero(times >= since)
    if not len(found):
        raise DataError("no example is as new as keep asks for")
    return examples.take(found)


def _keys(examples: Examples, seed: int) -> NDArray[np.uint64]:
    """A number for each example, by its content; errors as `check_present`."""
    key = seed.to_bytes(8, "little")
    keys = np.empty(len(examples), np.uint64)
    for at in range(len(examples)):
        if at % _LOOKED == 0:  # a file that is cut meanwhile kills who reads on
            check_present(examples.inputs, examples.targets)
        parts = examples.inputs[at].tobytes(), examples.targets[at].tobytes()
        digest = hashlib.blake2b(b"\0".join(parts), digest_size=8, key=key).digest()
        keys[at] = int.from_bytes(digest, "little")
    return keys
