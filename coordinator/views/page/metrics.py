"""The run's figures as Prometheus reads them, computed when it asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]

P = "flash_edge_"


def exposition(facts: Mapping[str, Any]) -> bytes:
    """All figures in Prometheus's text format.

    Args:
        facts: As `coordinator.views.page.source.RunSource.run` gives them; empty before
            the run has begun.
    """
    registry = CollectorRegistry()
    registry.register(_Facts(facts))
    return generate_latest(registry)


class _Facts(Collector):
    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Each metric with its samples."""
        begun = GaugeMetricFamily(f"{P}run_begun", "1 once the run has a ledger.")
        begun.add_metric([], 1.0 if self._facts else 0.0)
        yield begun
        if self._facts:
            yield from _run(self._facts)
            yield from _rounds(self._facts)
            yield from _devices(self._facts["devices"])
            yield from _participation(self._facts["participation"])


def _run(facts: Mapping[str, Any]) -> Iterator[Metric]:
    run = facts["run"]
    about = InfoMetricFamily(f"{P}run", "What is trained, and how.")
    about.add_metric([], {k: str(run[k]) for k in ("federation", "task", "algorithm")})
    yield about
    yield _gauge("run_rounds", "Rounds the run is to complete.", run["rounds"])
    online = sum(d["online"] for d in facts["devices"])
    devices = GaugeMetricFamily(
        f"{P}devices", "Devices ever seen, by presence.", labels=["presence"]
    )
    revoked = sum(d["phase"] == "revoked" for d in facts["devices"])
    devices.add_metric(["online"], online)
    devices.add_metric(["offline"], len(facts["devices"]) - online - revoked)
    devices.add_metric(["revoked"], revoked)
    yield devices


def _rounds(facts: Mapping[str, Any]) -> Iterator[Metric]:
    rounds = facts["rounds"]
    ended = CounterMetricFamily(
        f"{P}rounds", "Rounds ended, the warm-up included.", labels=["outcome"]
    )
    for outcome in ("done", "aborted"):
        ended.add_metric([outcome], sum(r["phase"] == outcome for r in rounds))
    yield ended
    yield _counter(
        "algorithm_failures",
        "Rounds aborted because a slot of the algorithm failed.",
        facts["algorithm_failures"],
    )
    accepted = sum(r["accepted"] for r in rounds)
    yield _counter("updates_accepted", "Updates durably accepted.", accepted)
    moved = CounterMetricFamily(
        f"{P}payload_bytes",
        "Bytes of updates (up) and of the models tasks start from (down).",
        labels=["direction"],
    )
    for way in ("up", "down"):
        moved.add_metric([way], sum(r[f"{way}_bytes"] for r in rounds))
    yield moved
    now = facts["open"] or {"no": 0, "accepted": 0, "goal": 0}
    yield _gauge("round_open", "1 while a round is open.", facts["open"] is not None)
    yield _gauge("round_number", "The open round; 0 for none or warm-up.", now["no"])
    yield _gauge(
        "round_updates", "Updates accepted in the open round.", now["accepted"]
    )
    yield _gauge("round_updates_goal", "Updates the open round wants.", now["goal"])
    took = [r["seconds"] for r in rounds if r["seconds"] is not None]
    if took:
        yield _gauge(
            "last_round_duration_seconds", "Of the last ended round.", took[-1]
        )
    scored = next((r for r in reversed(rounds) if r["scores"]), None)
    if scored is not None:
        yield _gauge("scored_round", "The round last evaluated.", scored["no"])
        yield from _scores(scored["scores"])


def _scores(scores: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    for metric, name in (
        ("accuracy", "accuracy_ratio"),
        ("label_accuracy", "label_accuracy_ratio"),
        ("loss", "loss"),
    ):
        family = GaugeMetricFamily(
            f"{P}{name}",
            f"The last evaluated model's {metric.replace('_', ' ')} at a density.",
            labels=["density"],
        )
        for density, found in scores.items():
            value = found.get(metric)
            # A share that is none, and no number: a name would promise too much.
            if value is not None and (metric == "loss" or 0 <= value <= 1):
                family.add_metric([density], value)
        if family.samples:
            yield family


def _devices(devices: list[Mapping[str, Any]]) -> Iterator[Metric]:
    # name, help, is a counter, a device's value
    families = (
        ("device_online", "1 while it is linked.", False, lambda d: d["online"]),
        ("device_density_ratio", "Share of weights.", False, lambda d: d["density"]),
        ("device_sent_bytes", "Since it was installed.", True, lambda d: d["sent"]),
        ("device_received_bytes", "The same.", True, lambda d: d["received"]),
        ("device_refused_updates", "Updates refused.", True, lambda d: d["refused"]),
        (
            "device_peak_memory_bytes",
            "Most resident memory it reported.",
            False,
            lambda d: d["rss_mib"] * 2**20,
        ),
        (
            "device_last_seen_timestamp_seconds",
            "When it was heard last, since 1970.",
            False,
            lambda d: datetime.fromisoformat(d["last_seen"]).timestamp(),
        ),
    )
    for name, text, is_counter, value in families:
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        family = kind(f"{P}{name}", text, labels=["device"])
        for device in devices:
            if (found := value(device)) is not None:
                family.add_metric([device["name"]], float(found))
        yield family


def _participation(found: Mapping[str, Any]) -> Iterator[Metric]:
    if found["share"] is not None:
        yield _gauge(
            "examples_trained_ratio",
            "Share of all examples that are in at least one model.",
            found["share"],
        )
    for name, text, key in (
        ("device_rounds_asked", "Rounds it got a task of, the warm-up aside.", "asked"),
        ("device_rounds_trained", "Of them, those whose model it is in.", "trained"),
    ):
        family = CounterMetricFamily(f"{P}{name}", text, labels=["device"])
        for one in found["devices"]:
            family.add_metric([one["name"]], one[key])
        yield family
    never = GaugeMetricFamily(
        f"{P}device_warning", "1 for who never took part.", labels=["device", "warning"]
    )
    for one in found["devices"]:
        if one["warning"]:
            never.add_metric([one["name"], one["warning"]], 1.0)
    yield never


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{P}{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{P}{name}", text, value=float(value))
