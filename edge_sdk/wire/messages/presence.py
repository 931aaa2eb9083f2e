"""Messages of presence: what runs here, who a device is, how it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from edge_sdk.consent import Consent
from edge_sdk.wire.named import Count, TaskId, Why

__all__ = ["Announce", "Hello", "Status", "Wait"]


class Announce(Struct, frozen=True, tag="announce"):
    """Coordinator to all, retained: what runs here.

    `link` counts the coordinator's connections to its broker: what it was sent before
    the last one may be lost. It is absent of a coordinator of 0.1.0.
    """

    state: Literal["waiting", "running", "done", "stopped"]
    task: str
    round_no: Count
    rounds: Count
    codecs: list[str]
    link: Count | UnsetType = UNSET


class Hello(Struct, frozen=True, tag="hello"):
    """Device to coordinator after every connect: who it is and what it holds.

    `free_disk_mib` is 0: nobody reads it, and a coordinator of 0.1.0 asks for it.
    `evaluates` is true of a device that answers EVALUATE; absent of one of 0.1.0.
    `consent` is absent of a device that is told of none.
    """

    phase: str
    task_id: TaskId | None
    version: str
    task: str
    examples: Count
    profile: dict[str, Any]
    codecs: list[str]
    engines: list[str]
    free_disk_mib: Count
    evaluates: bool | UnsetType = UNSET
    consent: Consent | UnsetType = UNSET


class Wait(Struct, frozen=True, tag="wait"):
    """Coordinator to device: nothing to do for now; come back after so long.

    Device to coordinator: its owner's limits hold it back for so long; 0 ends that.
    """

    ms: Count
    why: Why


class Status(Struct, frozen=True, tag="status"):
    """Device to all, retained, and its will: for displays.

    Three decisions look at it: a will or goodbye ends a device's presence, `progress`
    may extend a deadline, within a bound, and `battery` and `open_min` decide whom a
    round asks first and for how many steps. `link` numbers the device's connections
    since it started, so that a will can be told from one of a connection that was
    replaced.
    `sent` and `received` are bytes on the wire since the device was installed,
    `celsius` its hottest sensor, `progress` the steps of the task done, in permille.
    `battery` is the charge of the battery it runs on, percent, `open_min` the minutes
    until its owner's hours end, `data_error` why its data cannot be read anew.
    """

    online: bool
    phase: str
    round_no: Count = 0
    engine: str = ""
    detail: str = ""
    sent: Count = 0
    received: Count = 0
    rss_mib: Count = 0
    # Absent, not null, where there is nothing to say: older bytes stay as they were.
    celsius: Annotated[float, Meta(ge=-60, le=200)] | UnsetType = UNSET
    progress: Annotated[int, Meta(ge=0, le=1000)] | UnsetType = UNSET
    link: Annotated[int, Meta(ge=0, lt=1 << 31)] | UnsetType = UNSET
    battery: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    open_min: Annotated[int, Meta(ge=0, le=1440)] | UnsetType = UNSET
    data_error: str | UnsetType = UNSET
