"""State, events and history of a session, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from edge_sdk.wire.messages import Manifest, Message, Offer, TaskOrder

__all__ = [
    "Booted",
    "Broke",
    "Connected",
    "Effect",
    "Event",
    "Fetch",
    "Fetched",
    "Greet",
    "Halt",
    "Heard",
    "Keep",
    "Nudge",
    "Say",
    "Session",
    "SessionPhase",
    "Ship",
    "Step",
    "Train",
    "UpdatePacked",
]


class SessionPhase(str, Enum):
    """Phases of a device in its part of a round."""

    BOOT = "boot"
    IDLE = "idle"
    FETCH = "fetching"
    TRAIN = "training"
    UPLOAD = "uploading"


@dataclass(frozen=True, slots=True)
class Session:
    """A device's state: what `Keep` has made durable, and the phase.

    `finished` holds the latest (task id, verdict), newest last.
    """

    phase: SessionPhase = SessionPhase.BOOT
    epoch: int = 0
    order: TaskOrder | None = None
    offer: Offer | None = None
    finished: tuple[tuple[str, str], ...] = ()


# -- events --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Booted:
    """The journal was read."""

    epoch: int
    order: TaskOrder | None
    offer: Offer | None
    finished: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Connected:
    """The transport connected, for the first time or again."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of the coordinator arrived."""

    epoch: int
    message: Message


@dataclass(frozen=True, slots=True)
class Fetched:
    """A task's base is whole, and with it every blob that `Fetch` named."""

    blob: str


@dataclass(frozen=True, slots=True)
class UpdatePacked:
    """Training is done and its update packed."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Broke:
    """Fetching or training cannot be done; `lasting`: nor can any other task's."""

    task_id: str
    why: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Nudge:
    """Event after a time without messages: ask again."""


Event: TypeAlias = Booted | Connected | Heard | Fetched | UpdatePacked | Broke | Nudge


# -- effects, carried out in order ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keep:
    """Make the session's epoch, order and offer durable.

    `finished` is the (task id, verdict) to remember.
    """

    finished: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message to the coordinator."""

    message: Message


@dataclass(frozen=True, slots=True)
class Greet:
    """Send HELLO with the device's facts."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get a task's base and what else it needs, or what is missing; `Fetched` follows.

    The base is the first.
    """

    blobs: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class Train:
    """Start local training; `UpdatePacked` or `Broke` follows."""

    order: TaskOrder


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop fetching or training for a task; nothing follows."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Ship:
    """Send at most `credit` chunks of the outbox from these ranges."""

    task_id: str
    ranges: tuple[tuple[int, int], ...]
    credit: int


Effect: TypeAlias = Keep | Say | Greet | Fetch | Train | Halt | Ship
Step: TypeAlias = tuple[Session, tuple[Effect, ...]]
