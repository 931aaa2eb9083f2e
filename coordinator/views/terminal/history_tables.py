"""Rounds, one round and one device as tables: what `rounds` and `devices` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coordinator.ledger import RefusalRow
from coordinator.views.device_scores import tests_text
from coordinator.views.device_view import DeviceHistory, DeviceTest
from coordinator.views.participation import Participation
from coordinator.views.round_view import RoundHistory, RoundView, TaskView
from coordinator.views.run_view import RunView
from coordinator.views.scores import ShownMetric, score_text
from coordinator.views.units import short_bytes, short_time
from edge_sdk.terminal import plain

__all__ = ["device_history", "round_history", "rounds_table", "troubles"]

PROFILE_WIDTH = 72  # columns of a value: notes are sentences
TESTS = 5  # of the newest models
ABORTED = 3  # of the last ones, so many are named


def rounds_table(
    rounds: Sequence[RoundView], metric: ShownMetric | None = None
) -> Table:
    """One line per round; a column of its score for each density."""
    densities = sorted({float(d) for r in rounds for d in r.scores or {}})
    head = ("round", "phase", "updates", "took", "up", "down")
    table = _table(*head, *(f"d={density:g}" for density in densities), words=["note"])
    for row in rounds:
        scores = {float(d): found for d, found in (row.scores or {}).items()}
        table.add_row(
            str(row.no) if row.no else "warm-up",
            row.phase.value,
            f"{row.accepted}/{row.goal}",
            short_time(row.seconds),
            short_bytes(row.up_bytes),
            short_bytes(row.down_bytes),
            *(score_text(scores.get(density), metric) for density in densities),
            plain(row.note or row.worse),
        )
    return table


def round_history(found: RoundHistory) -> RenderableType:
    """One round: what it wanted, and each device's part of it."""
    row = found.round
    head = [
        f"{row.name}: {row.phase.value}, updates {row.accepted}/{row.goal}, "
        f"quorum {row.quorum}, learning rate {row.rate:g}"
        + (f", deadline {row.deadline_s:.0f} s" if row.deadline_s else "")
        + (f", took {row.seconds:.0f} s" if row.seconds else ""),
    ]
    for density, scores in sorted((row.scores or {}).items()):
        head.append(f"at density {density}: {score_text(scores, found.metric)}")
    for density, tests in sorted((row.on_devices or {}).items()):
        head.append(f"tested at density {density} on {tests_text(tests, found.metric)}")
        head += [f"  {name}: {why}" for name, why in tests.without.items()]
    head += filter(None, (row.worse, row.note))
    tasks = _tasks(found.tasks, "device", lambda task: task.device)
    return Group(*map(_line, head), tasks)


def _test(found: DeviceTest) -> str:
    values = ", ".join(
        f"{name} {'-' if value is None else f'{value:.4g}'}"
        for name, value in found.metrics.items()
    )
    told = "; ".join(filter(None, (values, found.why)))
    return f"round {found.round} on its {found.examples} test examples: {told}"


def device_history(found: DeviceHistory) -> RenderableType:
    """One device: profile, density and why, its tasks, what was refused."""
    device = found.device
    density = "none" if device.density is None else f"{device.density:g}"
    heat = "" if device.celsius is None else f", {device.celsius:.0f} °C"
    gone = "revoked" if device.is_revoked else "offline"
    where = f"online, {device.phase}" if device.online else gone
    head = [
        f"{device.name}: {device.board}, {where}, {device.examples} examples, "
        f"engine {device.engine or 'not known yet'}, version {device.version}",
        f"density {density}: {device.why}",
        f"last seen {device.last_seen}, {short_bytes(device.sent)} up, "
        f"{short_bytes(device.received)} down, {device.rss_mib} MiB{heat}",
        *filter(None, (device.pace, device.note, device.failing)),
        *([f"consent: {device.consent}"] if device.consent else []),
        *([f"labels: {device.labels}"] if device.labels else []),
        *([f"its data have drifted: {device.drift}"] if device.drift else []),
        *map(_test, found.tests[:TESTS]),
        *map(_refusal, found.refusals),
    ]
    return Group(
        *map(_line, head),
        Text("profile", style="dim"),
        _profile(found.profile),
        _tasks(found.tasks, "round", lambda t: str(t.round) if t.round else "warm-up"),
    )


def _profile(pairs: Sequence[tuple[str, object]]) -> Table:
    """One value a line; a note is a sentence, and breaks at words beside its name."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", max_width=PROFILE_WIDTH)
    for key, value in pairs:
        table.add_row(Text(plain(str(key))), Text(plain(str(value))))
    return table


def troubles(view: RunView, models: Mapping[str, Mapping[str, Any]]) -> Group:
    """Aborted rounds, devices that do not take part, refused updates, models.

    Args:
        view: The run.
        models: `coordinator.views.terminal.status.delivered` of it.
    """
    lines = [f"round {r.no} aborted: {r.note}" for r in view.rounds if r.is_aborted]
    lines = lines[-ABORTED:]
    lines += [
        f"{d.name}: {d.warning}: {d.reason}" if d.warning else f"{d.name} {d.sits_out}"
        for d in view.participation.devices
        if d.warning or d.sits_out
    ]
    lines += [f"{r.device}: {_refusal(r)}" for r in view.refusals]
    delivered = [
        f"{d.name} {line}"
        for d in view.devices
        if d.name in models
        for line in _deliveries(models[d.name])
    ]
    return Group(
        *_participation(view.participation),
        *(Text(plain(line), style="red", overflow="fold") for line in lines),
        *map(_line, delivered),
    )


def _participation(found: Participation) -> Iterator[Text]:
    """Share of the examples that have trained, and rounds per device."""
    if not found.rounds or found.share is None:
        return
    counts = Counter(d.trained for d in found.devices)
    each = ", ".join(f"{n} in {k}" for k, n in sorted(counts.items(), reverse=True))
    yield _line(
        f"participation: {100 * found.share:.0f} % of all examples were trained on; "
        f"of {found.rounds} rounds done, devices: {each}"
    )


def _deliveries(found: Mapping[str, Any]) -> Iterator[str]:
    """The model that a device runs, and a delivery that did not become it."""
    if live := found["model"]:
        yield f"runs {live['label']} ({live['digest'][:8]})"
    if (last := found["delivery"]) and last["verdict"] != "live":
        why = f": {last['why']}" if last["why"] else ""
        yield f"delivery {last['no']} of {last['label']} is {last['verdict']}{why}"


def _refusal(row: RefusalRow) -> str:
    return f"{row.verdict} {row.count} times, last in round {row.round}: {row.why}"


def _line(text: str) -> Text:
    return Text(plain(text), overflow="fold")


def _tasks(
    tasks: Sequence[TaskView], first: str, name: Callable[[TaskView], str]
) -> RenderableType:
    if not tasks:
        return Text("no tasks yet", style="dim")
    head = (first, "dens.", "phase", "took", "steps", "loss", "up", "down", "MiB")
    table = _table(*head, words=["why"])
    for task in tasks:
        table.add_row(
            name(task),
            f"{task.density:g}",
            task.phase,
            short_time(task.seconds),
            _figure(task.steps, ".0f"),
            _figure(task.loss, ".3f"),
            short_bytes(task.up_bytes or 0),
            short_bytes(task.down_bytes),
            _figure(task.peak_mib, ".0f"),
            plain(task.why),
        )
    return table


def _table(first: str, *numbers: str, words: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True, overflow="ellipsis", max_width=24)
    for name in numbers:
        left = name == "phase"
        table.add_column(name, no_wrap=True, justify="left" if left else "right")
    for name in words:
        table.add_column(name, overflow="fold")
    return table


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
