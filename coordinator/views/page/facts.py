"""From the ledger's rows to what a page shows: plain values, JSON-ready."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec

from coordinator.ledger import Ledger, RefusalRow, read_order
from coordinator.rounds.state import RoundPhase
from coordinator.settings import RunSettings
from coordinator.views.page.savings import savings
from coordinator.views.page.slow_devices import slowest
from coordinator.views.participation import participation
from coordinator.views.scores import metric_of
from device_profiles.words import meant
from edge_sdk.errors import StateError
from edge_sdk.wire.rules import Frozen

__all__ = [
    "KINDS",
    "coverage",
    "device_facts",
    "flat",
    "participation_facts",
    "round_facts",
    "run_facts",
    "warm_up_facts",
]

OPEN = (
    RoundPhase.PLAN.value,
    RoundPhase.SELECT.value,
    RoundPhase.RUN.value,
    RoundPhase.CLOSING.value,
)

# What a verdict did; every other refused an update.
KINDS = {
    "clipped": "accepted, bounded",
    "late": "too late",
    "malformed": "message dropped",
    "turned-away": "turned away",
    "flooding": "not heard for a while",
    "revoked": "revoked",
}


def run_facts(settings: RunSettings, ledger: Ledger) -> dict[str, Any]:
    """The run at a glance: rounds with scores and bytes, devices with their state."""
    scores = ledger.scores()
    rounds = [_round(row, scores) for row in ledger.round_history()]
    last_open = next((r for r in rounds if r["phase"] in OPEN), None)
    phases = {} if last_open is None else _phases(ledger, last_open["no"])
    done = sum(r["phase"] == RoundPhase.DONE.value and r["no"] > 0 for r in rounds)
    refused = ledger.refusals()
    shares = ledger.examples_trained()
    devices = [
        _device(d, refused.get(d["name"], 0)) | {"task": phases.get(d["name"], "")}
        for d in ledger.devices()
    ]
    return {
        "run": {
            "federation": settings.federation,
            "task": settings.task,
            "algorithm": settings.algorithm,
            "rounds": settings.rounds,
            "densities": sorted(settings.densities),
        },
        "began": rounds[0]["opened"] if rounds else None,
        "ended": max((r["closed"] for r in rounds if r["closed"]), default=None),
        "state": _state(last_open, done, settings.rounds),
        "rounds_done": done,
        "algorithm_failures": ledger.get("algorithm_failures") or 0,
        "metric": _metric(scores),
        "open": last_open
        and last_open | {"deadline": ledger.deadline_of(last_open["no"])},
        "rounds": rounds,
        "devices": devices,
        "savings": _savings(ledger, rounds, devices, shares),
        "slow": _slow(ledger, rounds, devices),
        "participation": participation_facts(settings, ledger),
        "refusals": [_refusal(r) | {"device": r.device} for r in ledger.refused()],
    }


def participation_facts(settings: RunSettings, ledger: Ledger) -> dict[str, Any]:
    """Whose data has trained how often, and why somebody's has not."""
    found = participation(
        ledger.devices(),
        ledger.parts(),
        ledger.standing(),
        ledger.round_history(),
        cohort=settings.cohort,
    )
    return {
        "rounds": found.rounds,
        "examples": found.examples,
        "examples_trained": found.examples_trained,
        "share": found.share,
        "devices": [msgspec.to_builtins(one) for one in found.devices],
    }


def device_facts(ledger: Ledger, name: str) -> dict[str, Any]:
    """One device.

    Raises:
        StateError: If the run has not seen it.
    """
    devices = {d["name"]: d for d in ledger.devices()}
    row = devices.get(name)
    if row is None:
        raise StateError(
            f"this run has seen no device {name}{meant(name, devices)}",
            remedy="Choose one of the list.",
        )
    refusals = [r for r in ledger.refused() if r.device == name]
    return {
        "device": _device(row, sum(r.count for r in refusals))
        | {"examples": row["examples"], "version": row["version"]},
        "profile": list(flat(json.loads(row["profile"]))),
        "tasks": [
            _task(t) | {"round": t["round"]} for t in ledger.tasks_of_device(name)
        ],
        "refusals": [
            _refusal(r) for r in sorted(refusals, key=lambda r: r.at, reverse=True)
        ],
    }


def round_facts(ledger: Ledger, no: int) -> dict[str, Any]:
    """One round.

    Raises:
        StateError: If it has not begun.
    """
    row = next((r for r in ledger.round_history() if r["no"] == no), None)
    if row is None:
        raise StateError(
            f"round {no} has not begun", remedy="Choose one of the list of rounds."
        )
    tasks = ledger.tasks_of_round(no)
    scores = ledger.scores()
    orders = [read_order(t["order_bytes"], t["device"], ledger.folder) for t in tasks]
    in_it = [
        order
        for task, order in zip(tasks, orders, strict=True)
        if task["accepted"] is not None
    ]
    return {
        "metric": _metric(scores),
        "round": _round(row, scores)
        | {
            "quorum": row["quorum"],
            "rate": row["rate"],
            "base": row["base"],
            "model": row["model"],
            "deadline_s": max((o.ttl_ms for o in orders), default=0) / 1000 or None,
        },
        "tasks": [_task_of(t) for t in tasks],
        # Only nested frozen masks can be told from counts; moving ones cannot.
        "coverage": coverage(
            _sizes(ledger), [o.mask.counts for o in in_it if isinstance(o.rule, Frozen)]
        ),
    }


def warm_up_facts(ledger: Ledger) -> dict[str, Any]:
    """Kept weights per layer, measured and after recalibration.

    Raises:
        StateError: If no masks have been drawn yet.
    """
    counts = ledger.get("counts")
    if counts is None:
        raise StateError(
            "the masks of this run are not drawn yet",
            remedy="They are once the warm-up is done.",
        )
    measured = ledger.get("evidence")
    densities = sorted(counts, key=float)
    return {
        "measured": measured is not None,
        "densities": densities,
        "layers": [
            {
                "name": name,
                "size": size,
                "measured": None if measured is None else measured.get(name),
                "kept": {d: counts[d][name] for d in densities},
            }
            for name, size in _sizes(ledger).items()
        ],
    }


def coverage(
    sizes: Mapping[str, int], held: Sequence[Mapping[str, int]]
) -> list[dict[str, Any]]:
    """How many devices held how many weights of each layer.

    Masks of one family nest, so the weights that a device holds beyond the next
    smaller device's are held by it and all larger ones.

    Args:
        sizes: Weights per layer.
        held: Kept weights per layer, for each device in the aggregate.

    Example:
        >>> coverage({"fc": 10}, [{"fc": 2}, {"fc": 5}])
        [{'name': 'fc', 'size': 10, 'held': [[2, 2], [1, 3], [0, 5]]}]
    """
    if not held:
        return []
    found = []
    for name, size in sizes.items():
        steps = sorted(counts.get(name, 0) for counts in held)
        weights: Counter[int] = Counter()
        for place, (below, here) in enumerate(pairwise([0, *steps, size])):
            weights[len(held) - place] += here - below
        rows = [[d, n] for d, n in sorted(weights.items(), reverse=True) if n]
        found.append({"name": name, "size": size, "held": rows})
    return found


def _refusal(row: RefusalRow) -> dict[str, Any]:
    return {
        "at": row.at,
        "round": row.round_no,
        "verdict": row.verdict,
        "kind": KINDS.get(row.verdict, "refused"),
        "count": row.count,
        "why": row.why,
    }


def _sizes(ledger: Ledger) -> dict[str, int]:
    sizes: dict[str, int] = ledger.get("layers") or {}
    return sizes


def _round(row: Mapping[str, Any], scores: Mapping[int, Any]) -> dict[str, Any]:
    return {
        "no": row["no"],
        "phase": row["phase"],
        "goal": row["goal"],
        "accepted": row["accepted"] or 0,
        "opened": row["opened"],
        "closed": row["closed"],
        "seconds": _seconds(row["opened"], row["closed"]),
        "up_bytes": row["up"] or 0,
        "down_bytes": row["down"] or 0,
        "asked": row["asked"] or 0,
        "scores": {str(d): m for d, m in scores.get(row["no"], {}).items()} or None,
        "note": row["note"],
    }


def _device(row: Mapping[str, Any], refused: int) -> dict[str, Any]:
    return {
        "name": row["name"],
        "board": row["board"],
        "density": row["density"],
        "why": row["why"],
        "engine": row["engine"],
        "online": bool(row["online"]),
        "phase": row["phase"],
        "sent": row["sent"],
        "received": row["received"],
        "rss_mib": row["rss_mib"],
        "celsius": row["celsius"],
        "progress": None if row["progress"] is None else row["progress"] / 1000,
        "pace": row["pace"],
        "waits": row["note"],
        "refused": refused,
        "last_seen": row["last_seen"],
    }


def _task(row: Mapping[str, Any]) -> dict[str, Any]:
    metrics = row["metrics"]
    return {
        "density": row["density"],
        "phase": row["phase"],
        "why": row["why"],
        "examples": row["examples"],
        "steps": metrics.get("steps"),
        "seconds": metrics.get("seconds"),
        "peak_mib": metrics.get("peak_mib"),
        "loss": metrics.get("loss"),
        "up_bytes": row["size"],
        "down_bytes": row["base_bytes"],
    }


def _metric(
    scores: Mapping[int, Mapping[float, Mapping[str, float]]],
) -> dict[str, Any]:
    found = metric_of(metrics for by in scores.values() for metrics in by.values())
    return {"name": found.name, "is_share": found.is_share}


def _task_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return _task(row) | {"device": row["device"], "late": row["phase"] == "expired"}


def _savings(
    ledger: Ledger,
    rounds: Sequence[Mapping[str, Any]],
    devices: Iterable[Mapping[str, Any]],
    shares: Iterable[Mapping[str, Any]],
) -> dict[str, Any] | None:
    engines = {d["name"]: d["engine"] for d in devices}
    return savings(
        rounds,
        [(s["density"], engines.get(s["device"], ""), s["examples"]) for s in shares],
        sizes=_sizes(ledger),
        counts=ledger.get("counts") or {},
        workload=ledger.get("workload"),
    )


def _slow(
    ledger: Ledger,
    rounds: Sequence[Mapping[str, Any]],
    devices: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Who held up the last round that ended; None before one has."""
    ended = [r["no"] for r in rounds if r["closed"] is not None]
    if not ended:
        return None
    tasks = [_task_of(t) for t in ledger.tasks_of_round(ended[-1])]
    return {"round": ended[-1], "devices": slowest(tasks, devices)}


def _phases(ledger: Ledger, no: int) -> dict[str, str]:
    return {t.device: t.phase.value for t in ledger.tasks(no)}


def _state(last_open: Mapping[str, Any] | None, done: int, wanted: int) -> str:
    if last_open is None:
        return "done" if done >= wanted else "between rounds"
    name = f"round {last_open['no']}" if last_open["no"] else "warm-up"
    return f"{name}: {last_open['accepted']} of {last_open['goal']} updates"


def _seconds(opened: str, closed: str | None) -> float | None:
    if closed is None:
        return None
    took = datetime.fromisoformat(closed) - datetime.fromisoformat(opened)
    return took.total_seconds()


def flat(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """A nested table as ``a.b`` and text."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flat(inner, f"{before}{key}.")
        elif inner is not None:
            yield f"{before}{key}", str(inner)
