"""Summary of a run as plain values, and what was delivered to its devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from coordinator.algorithms.privacy.budget import SPENT
from coordinator.delivery.store import Delivery, DeliveryStore, LiveModel
from coordinator.ledger import Ledger, read_ledger
from coordinator.rounds.data_statistics.joined import STATISTICS
from coordinator.rounds.state import RoundPhase
from coordinator.views.device_view import device_json
from edge_sdk.errors import StateError
from edge_sdk.json_text import finite

__all__ = ["NOTHING", "delivered", "has_run", "summary"]

NOTHING: dict[str, Any] = {"model": None, "delivery": None}  # was delivered


def has_run(folder: Path) -> bool:
    """Return whether a run has begun there; one refused when it started has not."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        return False
    if not path.stat().st_size:  # made by a coordinator that was killed at once, or cut
        if any((folder / "checkpoints").glob("round-*")):
            raise StateError(
                f"{path} is empty although checkpoints lie beside it: it was cut off",
                remedy="Put a copy of it back; without one, start in a new folder.",
            )
        return False
    ledger = read_ledger(folder)
    try:
        return bool(ledger.rounds())
    finally:
        ledger.close()


def summary(folder: Path) -> dict[str, Any]:
    """A run at a glance; JSON-ready.

    Raises:
        StateError: If the folder holds no run.
    """
    ledger = read_ledger(folder)
    try:
        return _summary(ledger, DeliveryStore(folder))
    finally:
        ledger.close()


def _summary(ledger: Ledger, store: DeliveryStore) -> dict[str, Any]:
    models, peaks, rounds = _delivered(store), ledger.peaks(), ledger.rounds()
    refusals: dict[str, list[Any]] = {}
    for row in ledger.refused():
        refusals.setdefault(row.device, []).append(msgspec.to_builtins(row))
    return {
        "rounds_done": ledger.rounds_done(),
        "rounds_aborted": [
            {"round": r.no, "why": r.note}
            for r in rounds
            if r.phase is RoundPhase.ABORTED
        ],
        "algorithm_failures": ledger.get("algorithm_failures") or 0,
        "privacy": ledger.get(SPENT),
        "updates": {str(no): n for no, n in ledger.frozen_counts().items()},
        "counts": ledger.get("counts"),
        "scores": {
            str(no): {str(d): m for d, m in found.items()}
            for no, found in ledger.scores().items()
        },
        "metric": ledger.get("metric"),
        "statistics": ledger.get(STATISTICS),
        "tests": [
            {"round": r.round, "density": r.density, "device": r.device or None}
            | {"examples": r.examples, "metrics": finite(r.metrics), "why": r.why}
            for r in ledger.evaluation_values()
        ],
        "devices": [
            device_json(d)
            | {
                "peak_mib": round(peaks.get(d.name, 0.0)),
                "refusals": refusals.get(d.name, []),
            }
            | models.get(d.name, NOTHING)
            for d in ledger.devices()
        ],
    }


def delivered(folder: Path) -> dict[str, dict[str, Any]]:
    """Live model of each device, and the last delivery to it; JSON-ready."""
    return _delivered(DeliveryStore(folder))


def _delivered(store: DeliveryStore) -> dict[str, dict[str, Any]]:
    live, deliveries = store.live(), store.latest()
    return {
        name: {
            "model": _model(live.get(name)),
            "delivery": _delivery(deliveries.get(name)),
        }
        for name in {*live, *deliveries}
    }


def _model(live: LiveModel | None) -> dict[str, str] | None:
    """Model that a device says it runs."""
    if live is None or live.digest is None:
        return None
    return {"label": live.label, "digest": live.digest.hex(), "since": live.at}


def _delivery(last: Delivery | None) -> dict[str, Any] | None:
    """The last delivery to a device."""
    if last is None:
        return None
    return {
        "no": last.no,
        "label": last.label,
        "digest": last.digest.hex(),
        "verdict": last.verdict or "pending",
        "why": last.why,
    }
