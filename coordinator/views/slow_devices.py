"""Devices that held a round up, with reasons, from their tasks' times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from coordinator.ledger.device_rows import DeviceRow
from coordinator.views.round_view import TaskView

__all__ = ["SlowDevice", "slowest"]

MUCH = 1.5  # times the median's: what a person would call slow
SOME = 1.25  # times the median's: enough to be a part of the reason
MOST = 5


@dataclass(frozen=True, slots=True)
class SlowDevice:
    """One device that held a round up."""

    device: str  # its name
    seconds: float | None  # its task took; None if it never answered
    times: float | None  # as many times the median's
    late: bool  # whether the round ended without it
    why: str  # in words


def slowest(
    tasks: Sequence[TaskView], devices: Iterable[DeviceRow]
) -> list[SlowDevice]:
    """The devices that were late or took much longer than the others, slowest first.

    Args:
        tasks: One round's.
        devices: With the coordinator's (`pace`) and the device's (`note`) own reasons.

    Returns:
        At most `MOST`.
    """
    own = {d.name: (d.pace, d.note) for d in devices}
    took = [t.seconds for t in tasks if t.seconds]
    usual = median(took) if took else 0.0
    steps = [t.seconds / t.steps for t in tasks if t.seconds and t.steps]
    usual_step = median(steps) if steps else 0.0
    counts = [t.steps for t in tasks if t.steps]
    usual_count = median(counts) if counts else 0.0
    found = []
    for task in tasks:
        seconds = task.seconds
        times = seconds / usual if seconds and usual else None
        if not task.late and not (times and times >= MUCH):
            continue
        reasons = [r for r in own.get(task.device, ()) if r]
        if task.late and not seconds:
            reasons.insert(0, task.why or "no update before the deadline")
        elif task.steps and seconds:
            if usual_step and (ratio := seconds / task.steps / usual_step) >= SOME:
                reasons.insert(0, f"each step takes {ratio:.1f} times the median's")
            if usual_count and (more := task.steps / usual_count) >= SOME:
                reasons.insert(0, f"it has {more:.1f} times the median's steps")
        found.append(
            SlowDevice(
                task.device,
                seconds,
                None if times is None else round(times, 1),
                task.late,
                "; ".join(reasons) or "it gave no reason",
            )
        )
    return sorted(found, key=lambda s: (not s.late, -(s.seconds or 0.0)))[:MOST]
