"""What there is to see of a run at one moment: values for displays and `status`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["DeviceView", "FleetView", "Observe"]


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device; bytes are on the wire, since it was installed.

    Attributes:
        task: Where its task of the open round is; empty without one.
        pace: Why it does only a part of a round; empty while it does all.
        note: What it waits for itself, by its own word.
        celsius: Its hottest sensor; None without one.
        progress: Share of its training's steps done; None while it does not train.
        seen_s: Seconds since it was last heard of; None if never.
    """

    name: str
    board: str
    density: float | None
    why: str
    online: bool
    phase: str
    task: str
    engine: str
    sent: int
    received: int
    rss_mib: int
    refused: int
    pace: str = ""
    note: str = ""
    celsius: float | None = None
    progress: float | None = None
    seen_s: float | None = None


@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole run.

    Attributes:
        phase: What the coordinator is doing, in a few words.
        round_no: The round in hand; 0 is the warm-up.
        rounds: Rounds wanted.
        rounds_done: Rounds done, the warm-up aside.
        accepted: Updates of this round that are durable.
        goal: Updates this round wants.
        left_s: Seconds until the deadline, if there is one.
        devices: By name.
        scores: Latest metrics by density.
        scored_round: The round they belong to.
    """

    phase: str
    round_no: int
    rounds: int
    rounds_done: int
    accepted: int
    goal: int
    left_s: float | None
    devices: tuple[DeviceView, ...]
    scores: Mapping[float, Mapping[str, float]]
    scored_round: int


Observe: TypeAlias = Callable[[FleetView], None]
