"""Who held a round up, and why, from what each device's task took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["slowest"]

MUCH = 1.5  # times the median's: what a person would call slow
SOME = 1.25  # times the median's: enough to be a part of the reason
MOST = 5


def slowest(
    tasks: Sequence[Mapping[str, Any]], devices: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The devices that were late or took much longer than the others, slowest first.

    Args:
        tasks: One round's, as `coordinator.views.page.facts` has them.
        devices: As `run_facts` has them: `pace` and `waits` are the coordinator's and
            the device's own reasons.

    Returns:
        At most `MOST`: `device`, `seconds` (None if it never answered), `times` the
        median's, `why`.
    """
    own = {d["name"]: d for d in devices}
    took = [t["seconds"] for t in tasks if t["seconds"]]
    usual = median(took) if took else 0.0
    steps = [t["seconds"] / t["steps"] for t in tasks if t["seconds"] and t["steps"]]
    usual_step = median(steps) if steps else 0.0
    counts = [t["steps"] for t in tasks if t["steps"]]
    usual_count = median(counts) if counts else 0.0
    found = []
    for task in tasks:
        seconds = task["seconds"]
        times = seconds / usual if seconds and usual else None
        if not task["late"] and not (times and times >= MUCH):
            continue
        device = own.get(task["device"], {"pace": "", "waits": ""})
        reasons = [r for r in (device["pace"], device["waits"]) if r]
        if task["late"] and not seconds:
            reasons.insert(0, task["why"] or "no update before the deadline")
        elif task["steps"] and seconds:
            if usual_step and (ratio := seconds / task["steps"] / usual_step) >= SOME:
                reasons.insert(0, f"each step takes {ratio:.1f} times the median's")
            if usual_count and (more := task["steps"] / usual_count) >= SOME:
                reasons.insert(0, f"it has {more:.1f} times the median's steps")
        found.append(
            {
                "device": task["device"],
                "seconds": seconds,
                "times": None if times is None else round(times, 1),
                "late": task["late"],
                "why": "; ".join(reasons) or "it gave no reason",
            }
        )
    return sorted(found, key=lambda s: (not s["late"], -(s["seconds"] or 0.0)))[:MOST]
