"""Every MQTT topic of the protocol: functions that build them and one that parses.

Prefix ``fl/1/<federation>``; at most seven slashes, because some brokers refuse more::

    c/ann                       retained announcement of the coordinator
    c/key/<number>              retained: the key it signs with from then on
    m/<blob>/<index>            retained chunks of models and masks, raw bytes
    d/<device>/in               to one device
    d/<device>/up/<shard>/ctl   from it: control messages
    d/<device>/up/<shard>/dat   from it: chunks of its update
    d/<device>/st               its retained status and will (a hint only)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "AnnouncementTopic",
    "ChunkTopic",
    "InboxTopic",
    "NextKeyTopic",
    "StatusTopic",
    "Topic",
    "UploadTopic",
    "all_statuses",
    "all_uploads",
    "announcement",
    "below",
    "check_id",
    "chunk",
    "device_of",
    "heard_by_coordinator",
    "inbox",
    "next_key",
    "parse",
    "status",
    "upload",
]

_ID = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
_BLOB = re.compile(r"[0-9a-f]{64}")
PARSED = 8192  # topics that are remembered; a device speaks on three


@dataclass(frozen=True, slots=True)
class AnnouncementTopic:
    """The coordinator's retained announcement."""


@dataclass(frozen=True, slots=True)
class NextKeyTopic:
    """The coordinator's retained word on its next key."""

    number: int


@dataclass(frozen=True, slots=True)
class ChunkTopic:
    """One retained chunk of a downward blob."""

    blob: str
    index: int


@dataclass(frozen=True, slots=True)
class InboxTopic:
    """Messages to one device."""

    device: str


@dataclass(frozen=True, slots=True)
class UploadTopic:
    """Messages from one device; `data` tells chunks from control."""

    device: str
    shard: int
    data: bool


@dataclass(frozen=True, slots=True)
class StatusTopic:
    """A device's retained status."""

    device: str


Topic: TypeAlias = (
    AnnouncementTopic
    | NextKeyTopic
    | ChunkTopic
    | InboxTopic
    | UploadTopic
    | StatusTopic
)


def check_id(text: str, *, what: str) -> str:
    """The id itself, if it may stand in a topic: ``[a-z0-9][a-z0-9-]{1,62}``.

    Raises:
        LocalProtocolError: If it may not.
    """
    if not _ID.fullmatch(text):
        raise LocalProtocolError(
            f"{what} {text!r} is not a valid name",
            remedy="Use 2 to 63 of a-z, 0-9 and -, starting with a letter or digit.",
        )
    return text


def _prefix(federation: str) -> str:
    return f"fl/1/{check_id(federation, what='federation')}"


def heard_by_coordinator(federation: str) -> tuple[str, ...]:
    """All patterns that a coordinator subscribes to."""
    return (
        all_uploads(federation, data=False),
        all_uploads(federation, data=True),
        all_statuses(federation),
        announcement(federation),
    )


def announcement(federation: str) -> str:
    """Topic of the coordinator's announcement."""
    return f"{_prefix(federation)}/c/ann"


def next_key(federation: str, number: int) -> str:
    """Topic of one of the coordinator's later keys."""
    return f"{_prefix(federation)}/c/key/{number}"


def chunk(federation: str, blob: str, index: int) -> str:
    """Topic of one chunk of a blob."""
    return f"{_prefix(federation)}/m/{blob}/{index}"


@lru_cache(maxsize=PARSED)
def inbox(federation: str, device: str) -> str:
    """Topic of the messages to one device."""
    return f"{_prefix(federation)}/d/{check_id(device, what='device')}/in"


def upload(federation: str, device: str, shard: int, *, data: bool) -> str:
    """Topic of one device's control messages, or of its chunks."""
    leaf = "dat" if data else "ctl"
    name = check_id(device, what="device")
    return f"{_prefix(federation)}/d/{name}/up/{shard}/{leaf}"


def all_uploads(federation: str, *, data: bool) -> str:
    """Filter for the control messages, or the chunks, of all devices."""
    return f"{_prefix(federation)}/d/+/up/+/{'dat' if data else 'ctl'}"


def status(federation: str, device: str) -> str:
    """Topic of a device's status."""
    return f"{_prefix(federation)}/d/{check_id(device, what='device')}/st"


def all_statuses(federation: str) -> str:
    """Filter for the status of all devices."""
    return f"{_prefix(federation)}/d/+/st"


def below(federation: str, device: str) -> str:
    """Filter for everything under one device's topics, also what has no meaning."""
    return f"{_prefix(federation)}/d/{check_id(device, what='device')}/#"


def device_of(topic: str, federation: str) -> str | None:
    """The device under whose topics this one is, whatever follows; None if none.

    Example:
        >>> device_of("fl/1/demo/d/pi-1/no/such", "demo")
        'pi-1'
    """
    head, _, rest = topic.partition(f"fl/1/{federation}/d/")
    device = rest.partition("/")[0]
    return device if not head and _ID.fullmatch(device) else None


@lru_cache(maxsize=PARSED)
def parse(topic: str, federation: str) -> Topic:
    """The topic as a value.

    Raises:
        RemoteProtocolError: If it is none of this federation's.

    Example:
        >>> parse("fl/1/demo/d/pi-1/up/0/ctl", "demo")
        UploadTopic(device='pi-1', shard=0, data=False)
    """
    prefix = f"fl/1/{federation}/"
    parts = topic.removeprefix(prefix).split("/") if topic.startswith(prefix) else []
    match parts:
        case ["c", "ann"]:
            return AnnouncementTopic()
        case ["c", "key", number] if _number(number):
            return NextKeyTopic(int(number))
        case ["m", blob, index] if _BLOB.fullmatch(blob) and _number(index):
            return ChunkTopic(blob, int(index))
        case ["d", device, "in"] if _ID.fullmatch(device):
            return InboxTopic(device)
        case ["d", device, "st"] if _ID.fullmatch(device):
            return StatusTopic(device)
        case ["d", device, "up", shard, ("ctl" | "dat") as leaf] if _ID.fullmatch(
            device
        ) and _number(shard):
            return UploadTopic(device, int(shard), leaf == "dat")
        case _:
            pass
    raise RemoteProtocolError(
        f"topic {topic[:120]!r} is none of federation {federation}"
    )


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6
