"""What the ledger holds of each device, as frozen values: a field is a column.

A field of `DeviceRow` that is added last, with a default, is a column from then on, in
ledgers that an older version began too, and is in all that is made of a device's view:
`status`, `devices` and the page as JSON.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import msgspec

__all__ = ["KINDS", "REFUSED", "DeviceRow", "RefusalRow", "added_columns", "read"]

T = TypeVar("T")
REFUSED = "refused"
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
    """One device; bytes are on the wire, since it was installed.

    Attributes:
        name: Its name.
        profile: As it sent it, JSON.
        examples: How many it says it has.
        version: Of its agent.
        last_seen: When its last HELLO or status came, ISO 8601.
        density: Share of weights it trains; None if it cannot take part.
        why: Why this density.
        engine: ``sparse`` or ``masked``; empty before its first status.
        online: Whether its last status says so.
        phase: What it does, by its own word; ``revoked`` once it is.
        sent: Bytes.
        received: Bytes.
        rss_mib: Most resident memory it reported, MiB.
        celsius: Its hottest sensor; None without one.
        progress: Share of its training's steps done; None while it does not train.
        pace: Why it does only a part of a round; empty while it does all.
        note: What it waits for, by its own word.
        board: Of its profile.
        task: Where its task of the open round is; empty without one.
        refused: Updates refused; late or bounded ones are not.
    """

    name: str
    profile: str = "{}"
    examples: int = 0
    version: str = ""
    last_seen: str = ""
    density: float | None = None
    why: str = ""
    engine: str = ""
    online: bool = False
    phase: str = ""
    sent: int = 0
    received: int = 0
    rss_mib: int = 0
    celsius: float | None = None
    progress: float | None = None
    pace: str = ""
    note: str = ""
    board: str = ""
    task: str = ""
    refused: int = 0


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """How often a device got one verdict, and the last time why.

    Attributes:
        device: Its name.
        verdict: As the gate has it.
        count: How often.
        round: The last time.
        why: The same.
        at: The same, ISO 8601.
        kind: What the verdict did, in words; `REFUSED` for an update that was refused.
    """

    device: str
    verdict: str
    count: int
    round: int
    why: str
    at: str
    kind: str


def read(kind: type[T], row: Mapping[str, Any], /, **more: object) -> T:
    """A row as a frozen value: a column of no field is passed over.

    Raises:
        ValueError: If a column holds what its field cannot.
    """
    try:
        return msgspec.convert(
            {**row, **more}, kind, strict=False, builtin_types=(bytes,)
        )
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
