"""A run's view out of its ledger: what `status` shows without asking a coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from coordinator.views.run_view import DeviceView, FleetView

__all__ = ["device_view", "left_s", "view_of"]


def view_of(facts: Mapping[str, Any], now: datetime) -> FleetView:
    """The whole run.

    Args:
        facts: `coordinator.views.page.facts.run_facts` of it.
        now: The present, with its zone; says how long ago a device was heard of.
    """
    scored = [r for r in facts["rounds"] if r["scores"]]
    scores = scored[-1]["scores"] if scored else {}
    in_hand = facts["open"]
    return FleetView(
        phase=facts["state"].partition(":")[0],
        round_no=0 if in_hand is None else in_hand["no"],
        rounds=facts["run"]["rounds"],
        rounds_done=facts["rounds_done"],
        accepted=0 if in_hand is None else in_hand["accepted"],
        goal=0 if in_hand is None else in_hand["goal"],
        left_s=left_s(in_hand, now),
        devices=tuple(device_view(device, now) for device in facts["devices"]),
        scores={float(density): found for density, found in scores.items()},
        scored_round=scored[-1]["no"] if scored else 0,
    )


def left_s(in_hand: Mapping[str, Any] | None, now: datetime) -> float | None:
    """Seconds until the deadline of the round in hand; 0 when it has passed.

    None between rounds, and of a round whose deadline its coordinator has not noted.
    """
    if in_hand is None or in_hand["deadline"] is None:
        return None
    until = datetime.fromisoformat(in_hand["deadline"]) - now
    return max(until.total_seconds(), 0.0)


def device_view(device: Mapping[str, Any], now: datetime) -> DeviceView:
    """One device of `run_facts`."""
    silent = now - datetime.fromisoformat(device["last_seen"])
    return DeviceView(
        name=device["name"],
        board=device["board"],
        density=device["density"],
        why=device["why"],
        online=device["online"],
        phase=device["phase"],
        task=device.get("task", ""),
        engine=device["engine"],
        sent=device["sent"],
        received=device["received"],
        rss_mib=device["rss_mib"],
        refused=device["refused"],
        pace=device["pace"],
        note=device["waits"],
        celsius=device["celsius"],
        progress=device["progress"] if device["phase"] == "training" else None,
        seen_s=max(silent.total_seconds(), 0.0),
    )
