"""The run's figures as Prometheus reads them, computed when it asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from coordinator.views.scores import SHARES, metric_of

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]

P = "flash_edge_"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Metrics whose names stand alone; another's could be that of any other figure.
OF_0_1_0 = ("accuracy", "label_accuracy", "loss")
Sample: TypeAlias = tuple[tuple[str, ...], float | None]  # label values, value
# Name (of a counter with a + before it), help, a device's value.
OF_DEVICES: tuple[tuple[str, str, Callable[[DeviceView], float | None]], ...] = (
    ("device_online", "1 while it is connected.", lambda d: d.online),
    ("device_density_ratio", "Share of weights it trains.", lambda d: d.density),
    ("+device_sent_bytes", "Sent since it was installed.", lambda d: d.sent),
    (
        "+device_received_bytes",
        "Received since it was installed.",
        lambda d: d.received,
    ),
    ("+device_refused_updates", "Updates refused.", lambda d: d.refused),
    (
        "device_data_unreadable",
        "1 while its data cannot be read and it trains on those of before.",
        lambda d: d.data_error is not None,
    ),
    (
        "device_test_incomplete",
        "1 while its last test of a model lacks a metric, or all.",
        lambda d: d.test_error is not None,
    ),
    (
        "device_peak_memory_bytes",
        "Most resident memory it reported.",
        lambda d: d.rss_mib * 2**20,
    ),
    (
        "device_last_seen_timestamp_seconds",
        "When it was heard last, since 1970.",
        lambda d: datetime.fromisoformat(d.last_seen).timestamp(),
    ),
)


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
        yield _one("run_begun", "1 once the run has a ledger.", view is not None)
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
    yield _one("run_rounds", "Rounds the run is to complete.", run.rounds)
    online = sum(d.online for d in devices)
    revoked = sum(d.is_revoked for d in devices)
    offline = len(devices) - online - revoked
    yield _family(
        "devices",
        "Devices ever seen, by presence.",
        [(("online",), online), (("offline",), offline), (("revoked",), revoked)],
        "presence",
    )


def _rounds(view: RunView) -> Iterator[Metric]:
    rounds, now = view.rounds, view.open or RoundView(0)
    done, aborted = sum(r.is_done for r in rounds), sum(r.is_aborted for r in rounds)
    yield _family(
        "+rounds",
        "Rounds ended, the warm-up included.",
        [(("done",), done), (("aborted",), aborted)],
        "outcome",
    )
    up, down = sum(r.up_bytes for r in rounds), sum(r.down_bytes for r in rounds)
    yield _family(
        "+payload_bytes",
        "Bytes of updates (up) and of the models tasks start from (down).",
        [(("up",), up), (("down",), down)],
        "direction",
    )
    for name, text, value in (
        (
            "+algorithm_failures",
            "Rounds aborted because a slot of the algorithm failed.",
            view.algorithm_failures,
        ),
        (
            "+updates_accepted",
            "Updates durably accepted.",
            sum(r.accepted for r in rounds),
        ),
        ("round_open", "1 while a round is open.", view.open is not None),
        ("round_number", "The open round; 0 for none or warm-up.", now.no),
        ("round_updates", "Updates accepted in the open round.", now.accepted),
        ("round_updates_goal", "Updates the open round wants.", now.goal),
    ):
        yield _one(name, text, value)
    took = [r.seconds for r in rounds if r.seconds is not None]
    if took:
        yield _one("last_round_duration_seconds", "Of the last ended round.", took[-1])
    scored = view.last_scored
    if scored is not None and scored.scores:
        yield _one("scored_round", "The round last evaluated.", scored.no)
        yield from _scores(scored.scores)
    tested = next((r.on_devices for r in reversed(rounds) if r.on_devices), {})
    for name, text in (
        ("median", "The median over devices of the primary metric on their tests."),
        ("worst_tenth", "The same, over the worst tenth of the devices."),
        ("spread", "The same, its standard deviation over devices."),
    ):
        values = [((d,), getattr(found, name)) for d, found in tested.items()]
        if values:
            yield _family(f"device_score_{name}", text, values, "density")


def _scores(scores: Scores) -> Iterator[Metric]:
    """Every metric that the model was evaluated by; a share ends in ``_ratio``."""
    for metric in dict.fromkeys(m for found in scores.values() for m in found):
        if not _NAME.fullmatch(metric):
            continue  # of a ledger of an earlier version
        values = [((density,), found.get(metric)) for density, found in scores.items()]
        known = [(at, v) for at, v in values if v is not None]
        share = metric_of([{metric: v} for _, v in known]).is_share
        if metric in SHARES and not share:
            continue  # a share that is none: its name would promise too much
        if known:
            text = (
                f"The last evaluated model's {metric.replace('_', ' ')} at a density."
            )
            prefix = "" if metric in OF_0_1_0 else "score_"
            ending = "_ratio" if share else ""
            yield _family(f"{prefix}{metric}{ending}", text, known, "density")


def _devices(devices: Sequence[DeviceView]) -> Iterator[Metric]:
    for name, text, value in OF_DEVICES:
        yield _family(name, text, [((d.name,), value(d)) for d in devices], "device")


def _participation(found: Participation) -> Iterator[Metric]:
    if found.share is not None:
        text = "Share of all examples that are in at least one model."
        yield _one("examples_trained_ratio", text, found.share)
    yield _family(
        "+device_rounds_asked",
        "Rounds it got a task of, the warm-up aside.",
        [((d.name,), d.asked) for d in found.devices],
        "device",
    )
    yield _family(
        "+device_rounds_trained",
        "Of them, those whose model it is in.",
        [((d.name,), d.trained) for d in found.devices],
        "device",
    )
    yield _family(
        "+device_examples_trained",
        "Examples of its accepted updates, over all rounds.",
        [((d.name,), d.seen) for d in found.devices],
        "device",
    )
    yield _family(
        "device_warning",
        "1 for who never or seldom took part.",
        [((d.name, d.warning), 1) for d in found.warnings],
        *("device", "warning"),
    )


def _one(name: str, text: str, value: float) -> Metric:
    return _family(name, text, [((), value)])


def _family(name: str, text: str, samples: Iterable[Sample], *labels: str) -> Metric:
    kind = CounterMetricFamily if name.startswith("+") else GaugeMetricFamily
    family = kind(f"{P}{name.removeprefix('+')}", text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family
