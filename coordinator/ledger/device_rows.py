"""Rows of the ledger about devices, as frozen values: a field is a column.

A field of `DeviceRow` that is added last, with a default, is a column from then on, in
ledgers that an older version began too, and is in all that is made of a device's view:
`status`, `devices` and the page as JSON.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import msgspec

__all__ = [
    "KINDS",
    "REFUSED",
    "TOGETHER",
    "DeviceRow",
    "EvaluationRow",
    "RefusalRow",
    "added_columns",
    "read",
]

T = TypeVar("T")
REFUSED = "refused"
TOGETHER = ""  # in a device's place: all devices of a density together
# What a verdict did; every other refused an update.
KINDS = {
    "clipped": "accepted, bounded",
    "late": "too late",
    "malformed": "message dropped",
    "turned-away": "turned away",
    "flooding": "not heard for a while",
    "revoked": "revoked",
}
JOINED = frozenset({"board", "refused", "task"})  # found in other columns and tables


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device; bytes are on the wire, since it was installed."""

    name: str  # its name
    profile: str = "{}"  # as it sent it, JSON
    examples: int = 0  # how many it says it has
    version: str = ""  # of its agent
    last_seen: str = ""  # when its last HELLO or status came, ISO 8601
    # share of weights it trains; None if it cannot take part
    density: float | None = None
    why: str = ""  # why this density
    engine: str = ""  # ``sparse`` or ``masked``; empty before its first status
    online: bool = False  # whether its last status says so
    phase: str = ""  # what it does, by its own word; ``revoked`` once it is
    sent: int = 0  # bytes
    received: int = 0  # bytes
    rss_mib: int = 0  # most resident memory it reported, MiB
    celsius: float | None = None  # its hottest sensor; None without one
    # share of its training's steps done; None while it does not train
    progress: float | None = None
    pace: str = ""  # why it does only a part of a round; empty while it does all
    note: str = ""  # what it waits for, by its own word
    board: str = ""  # of its profile
    task: str = ""  # where its task of the open round is; empty without one
    refused: int = 0  # updates refused; late or bounded ones are not
    labels: str = ""  # of its examples, with counts, where it reports them
    # how far its examples are from its first ones; None without reports
    shift: float | None = None
    drift: str = ""  # what of that is beyond the band; empty if nothing is
    data_first: str = ""  # its first report, JSON
    battery: int | None = None  # charge of the battery it runs on, %; None on mains
    open_min: int | None = None  # until its owner's hours end; None where they do not
    consent: str = ""  # what its data's people have agreed to; empty if it is not told
    # why it trains on what it had read before; None while its data can be read
    data_error: str | None = None
    # what its last test lacks and why; None while nothing is missing
    test_error: str | None = None


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Number of one verdict on a device's updates; round, why and at are the last's."""

    device: str  # its name
    verdict: str  # as `rounds.validation` names it
    count: int  # how often
    round: int  # the last time
    why: str  # the same
    at: str  # the same, ISO 8601
    # what the verdict did, in words; `REFUSED` for an update that was refused
    kind: str


def read(kind: type[T], row: Any, /, **more: object) -> T:
    """Read a row into a frozen value; columns without a field are left out.

    Raises:
        ValueError: If a column holds what its field cannot.
    """
    # Unpacked by `**`, a row of SQLite looks for each of its names among all of them.
    named = row if isinstance(row, Mapping) else zip(row.keys(), row, strict=True)
    columns = dict(named) | more
    try:
        return msgspec.convert(columns, kind, strict=False, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


@functools.cache
def added_columns() -> dict[str, object]:
    """Columns of `DeviceRow` by name, with their defaults."""
    return {
        field.name: field.default
        for field in fields(DeviceRow)
        if field.default is not MISSING and field.name not in JOINED
    }


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One device's answer about one round's model.

    Attributes:
        round: The round that gave the model.
        density: Of the model.
        device: Whose test examples; empty for all of the density together.
        examples: How many there are.
        sums: Metric -> its summed numbers.
        metrics: Metric -> its value; NaN where it has none.
        why: What is to be said of it: why a metric is missing, or all.
    """

    round: int
    density: float
    device: str
    examples: int
    sums: Mapping[str, Sequence[float]]
    metrics: Mapping[str, float]
    why: str = ""
