"""The run's figures as Prometheus reads them, computed when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from coordinator.views.device_view import DeviceView
from coordinator.views.participation import Participation
from coordinator.views.round_view import RoundView, Scores
from coordinator.views.run_view import RunView

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]

P = "flash_edge_"


def exposition(view: RunView | None) -> bytes:
    """All figures in Prometheus's text format; of None, a run that has not begun."""
    registry = CollectorRegistry()
    registry.register(_Figures(view))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, view: RunView | None) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Each metric with its samples."""
        view = self._view
        yield _gauge("run_begun", "1 once the run has a ledger.", view is not None)
        if view is not None:
            yield from _run(view)
            yield from _rounds(view)
            yield from _devices(view.devices)
            yield from _participation(view.participation)


def _run(view: RunView) -> Iterator[Metric]:
    run, devices = view.run, view.devices
    about = InfoMetricFamily(f"{P}run", "What is trained, and how.")
    about.add_metric(
        [],
        {"federation": run.federation, "task": run.task, "algorithm": run.algorithm},
    )
    yield about
    yield _gauge("run_rounds", "Rounds the run is to complete.", run.rounds)
    online = sum(d.online for d in devices)
    revoked = sum(d.is_revoked for d in devices)
    family = GaugeMetricFamily(
        f"{P}devices", "Devices ever seen, by presence.", labels=["presence"]
    )
    family.add_metric(["online"], online)
    family.add_metric(["offline"], len(devices) - online - revoked)
    family.add_metric(["revoked"], revoked)
    yield family


def _rounds(view: RunView) -> Iterator[Metric]:
    rounds = view.rounds
    ended = CounterMetricFamily(
        f"{P}rounds", "Rounds ended, the warm-up included.", labels=["outcome"]
    )
    ended.add_metric(["done"], sum(r.is_done for r in rounds))
    ended.add_metric(["aborted"], sum(r.is_aborted for r in rounds))
    yield ended
    yield _counter(
        "algorithm_failures",
        "Rounds aborted because a slot of the algorithm failed.",
        view.algorithm_failures,
    )
    accepted = sum(r.accepted for r in rounds)
    yield _counter("updates_accepted", "Updates durably accepted.", accepted)
    moved = CounterMetricFamily(
        f"{P}payload_bytes",
        "Bytes of updates (up) and of the models tasks start from (down).",
        labels=["direction"],
    )
    moved.add_metric(["up"], sum(r.up_bytes for r in rounds))
    moved.add_metric(["down"], sum(r.down_bytes for r in rounds))
    yield moved
    now = view.open or RoundView(0)
    for name, text, value in (
        ("round_open", "1 while a round is open.", view.open is not None),
        ("round_number", "The open round; 0 for none or warm-up.", now.no),
        ("round_updates", "Updates accepted in the open round.", now.accepted),
        ("round_updates_goal", "Updates the open round wants.", now.goal),
    ):
        yield _gauge(name, text, value)
    took = [r.seconds for r in rounds if r.seconds is not None]
    if took:
        yield _gauge(
            "last_round_duration_seconds", "Of the last ended round.", took[-1]
        )
    scored = view.last_scored
    if scored is not None and scored.scores:
        yield _gauge("scored_round", "The round last evaluated.", scored.no)
        yield from _scores(scored.scores)


def _scores(scores: Scores) -> Iterator[Metric]:
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


Value: TypeAlias = Callable[[DeviceView], float | None]
# name, help, is a counter, a device's value
OF_DEVICES: tuple[tuple[str, str, bool, Value], ...] = (
    ("device_online", "1 while it is linked.", False, lambda d: d.online),
    ("device_density_ratio", "Share of weights.", False, lambda d: d.density),
    ("device_sent_bytes", "Since it was installed.", True, lambda d: d.sent),
    ("device_received_bytes", "The same.", True, lambda d: d.received),
    ("device_refused_updates", "Updates refused.", True, lambda d: d.refused),
    (
        "device_peak_memory_bytes",
        "Most resident memory it reported.",
        False,
        lambda d: d.rss_mib * 2**20,
    ),
    (
        "device_last_seen_timestamp_seconds",
        "When it was heard last, since 1970.",
        False,
        lambda d: datetime.fromisoformat(d.last_seen).timestamp(),
    ),
)


def _devices(devices: Sequence[DeviceView]) -> Iterator[Metric]:
    for name, text, is_counter, value in OF_DEVICES:
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        family = kind(f"{P}{name}", text, labels=["device"])
        for device in devices:
            if (found := value(device)) is not None:
                family.add_metric([device.name], float(found))
        yield family


def _participation(found: Participation) -> Iterator[Metric]:
    if found.share is not None:
        yield _gauge(
            "examples_trained_ratio",
            "Share of all examples that are in at least one model.",
            found.share,
        )
    asked = CounterMetricFamily(
        f"{P}device_rounds_asked",
        "Rounds it got a task of, the warm-up aside.",
        labels=["device"],
    )
    trained = CounterMetricFamily(
        f"{P}device_rounds_trained",
        "Of them, those whose model it is in.",
        labels=["device"],
    )
    never = GaugeMetricFamily(
        f"{P}device_warning", "1 for who never took part.", labels=["device", "warning"]
    )
    for one in found.devices:
        asked.add_metric([one.name], one.asked)
        trained.add_metric([one.name], one.trained)
        if one.warning:
            never.add_metric([one.name, one.warning], 1.0)
    yield from (asked, trained, never)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{P}{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{P}{name}", text, value=float(value))
