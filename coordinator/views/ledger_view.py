"""Reads the views of a run from its ledger: the one place that does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from coordinator.algorithms.privacy.budget import SPENT
from coordinator.ledger import Ledger, read_order
from coordinator.ledger.device_rows import read
from coordinator.rounds.state import TaskPhase
from coordinator.settings import RunSettings
from coordinator.views.device_scores import on_devices, pooled
from coordinator.views.device_view import DeviceHistory, DeviceTest, DeviceView
from coordinator.views.layers import LayerView, WarmUpView, coverage
from coordinator.views.participation import participation
from coordinator.views.round_view import RoundHistory, RoundView, TaskView
from coordinator.views.run_view import RunView, Settings, SlowRound, SpentPrivacy
from coordinator.views.savings import savings
from coordinator.views.scores import ShownMetric, metric_of, told_metric
from coordinator.views.slow_devices import slowest
from coordinator.views.units import flat
from device_profiles.words import meant
from edge_sdk.errors import StateError
from edge_sdk.json_text import finite
from edge_sdk.wire.rules import FROZEN

__all__ = ["read_device", "read_round", "read_run", "read_warm_up"]


def read_run(settings: RunSettings, ledger: Ledger) -> RunView:
    """The run at a glance: rounds with scores and bytes, devices with their state."""
    rounds, metric = _rounds(ledger)
    devices = ledger.devices_as(DeviceView)
    in_hand = next((r for r in rounds if r.is_open), None)
    folded, seen = ledger.folded(), ledger.examples_trained()
    done = folded.done + sum(r.is_done for r in rounds if r.no)
    engines = {d.name: d.engine for d in devices}
    return RunView(
        run=Settings(
            settings.federation,
            settings.task,
            settings.algorithm,
            settings.rounds,
            sorted(settings.densities),
        ),
        began=rounds[0].opened if rounds else None,
        ended=max((r.closed for r in rounds if r.closed), default=None),
        state="done" if ledger.get("ended") else _state(in_hand, done, settings.rounds),
        rounds_done=done,
        metric=metric,
        open=in_hand,
        rounds=rounds,
        devices=devices,
        savings=savings(
            rounds,
            [
                (row["density"], engines.get(row["device"], ""), row["examples"])
                for row in seen
            ],
            sizes=_sizes(ledger),
            counts=ledger.get("counts") or {},
            workload=ledger.get("workload"),
            folded=(folded.bytes, folded.asked + folded.accepted),
        ),
        slow=_slow(ledger, rounds, devices),
        participation=participation(
            devices,
            ledger.parts(),
            ledger.standing(),
            rounds,
            cohort=settings.cohort,
            folded=folded.done,
            seen=seen,
        ),
        refusals=ledger.refused(),
        algorithm_failures=ledger.get("algorithm_failures") or 0,
        privacy=SpentPrivacy(**spent) if (spent := ledger.get(SPENT)) else None,
    )


def read_device(ledger: Ledger, name: str) -> DeviceHistory:
    """One device with its past.

    Raises:
        StateError: If the run has not seen it.
    """
    devices = {d.name: d for d in ledger.devices_as(DeviceView)}
    if name not in devices:
        raise StateError(
            f"this run has seen no device {name}{meant(name, devices)}",
            remedy="Choose one of the list.",
        )
    mine = [r for r in ledger.refused() if r.device == name]
    return DeviceHistory(
        device=devices[name],
        profile=list(flat(json.loads(devices[name].profile))),
        tasks=[_task(row) for row in ledger.tasks_of_device(name)],
        refusals=sorted(mine, key=lambda r: r.at, reverse=True),
        tests=[
            DeviceTest(r.round, r.density, r.examples, finite(r.metrics), r.why)
            for r in reversed(ledger.evaluations(device=name))
        ],
    )


def read_round(ledger: Ledger, no: int) -> RoundHistory:
    """One round with its tasks.

    Raises:
        StateError: If it has not begun.
    """
    rows = ledger.tasks_of_round(no)
    orders = [read_order(r["order_bytes"], r["device"], ledger.folder) for r in rows]
    longest_s = max((o.ttl_ms for o in orders), default=0) / 1000 or None
    rounds, metric = _rounds(ledger, deadline_s=longest_s)
    found = next((r for r in rounds if r.no == no), None)
    if found is None:
        gone = 0 < no <= ledger.folded().until
        why = "is kept in sums alone (keep_rounds)" if gone else "has not begun"
        raise StateError(
            f"round {no} {why}", remedy="Choose one of the list of rounds."
        )
    # Only nested frozen masks can be told from counts; moving ones cannot.
    held = [
        order.mask.counts
        for row, order in zip(rows, orders, strict=True)
        if row["accepted"] is not None and isinstance(order.rule, FROZEN)
    ]
    return RoundHistory(
        metric=metric,
        round=found,
        tasks=[_task(row) for row in rows],
        coverage=coverage(_sizes(ledger), held),
    )


def read_warm_up(ledger: Ledger) -> WarmUpView:
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
    return WarmUpView(
        measured=measured is not None,
        densities=densities,
        layers=[
            LayerView(
                name,
                size,
                (measured or {}).get(name),
                {density: counts[density][name] for density in densities},
            )
            for name, size in _sizes(ledger).items()
        ],
    )


def _rounds(ledger: Ledger, **more: object) -> tuple[list[RoundView], ShownMetric]:
    """Every round, and the metric that stands for their scores.

    A model that no examples here have scored has the score of all devices together.
    """
    tests = ledger.evaluation_values()
    scores = pooled(tests)
    for no, found in ledger.scores().items():
        scores[no] = {**scores.get(no, {}), **found}
    told = told_metric(ledger.get("metric"))
    metric = metric_of((m for by in scores.values() for m in by.values()), told)
    boards = {d.name: d.board for d in ledger.devices()} if tests else {}
    tested = on_devices(tests, metric, boards)
    rounds = [
        read(
            RoundView,
            row,
            seconds=_seconds(row["opened"], row["closed"]),
            scores={str(d): m for d, m in scores.get(row["no"], {}).items()} or None,
            on_devices=tested.get(row["no"]),
            worse=ledger.worse(row["no"]),
            deadline=None if row["closed"] else ledger.deadline_of(row["no"]),
            **more,
        )
        for row in ledger.round_history()
    ]
    return rounds, metric


def _task(row: Mapping[str, Any]) -> TaskView:
    late = row["phase"] == TaskPhase.EXPIRED.value
    return read(TaskView, {**row["metrics"], **row}, late=late)


def _slow(
    ledger: Ledger, rounds: Sequence[RoundView], devices: Sequence[DeviceView]
) -> SlowRound | None:
    """Slow devices of the last round that ended; None before one has."""
    last = next((r.no for r in reversed(rounds) if r.closed), None)
    if last is None:
        return None
    tasks = [_task(row) for row in ledger.tasks_of_round(last)]
    return SlowRound(last, slowest(tasks, devices))


def _sizes(ledger: Ledger) -> dict[str, int]:
    return ledger.get("layers") or {}


def _state(in_hand: RoundView | None, done: int, wanted: int) -> str:
    if in_hand is None:
        return "done" if 0 < wanted <= done else "between rounds"
    return f"{in_hand.name}: {in_hand.accepted} of {in_hand.goal} updates"


def _seconds(opened: str, closed: str | None) -> float | None:
    if closed is None:
        return None
    took = datetime.fromisoformat(closed) - datetime.fromisoformat(opened)
    return took.total_seconds()
