"""The report's tables: cells as text, from a run's facts."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.ledger import RefusalRow
from coordinator.ledger.device_rows import REFUSED
from coordinator.views.device_view import DeviceView
from coordinator.views.exports import FileView
from coordinator.views.participation import Participation
from coordinator.views.report.facts import ReportFacts
from coordinator.views.report.layers import layers_table
from coordinator.views.report.table import Table, table
from coordinator.views.round_view import Scores
from coordinator.views.run_view import RunView
from coordinator.views.scores import percent, value_text
from coordinator.views.units import flat, human_bytes

__all__ = ["tables"]

FEW = 3  # densities with a column each; of more one cell has all


def tables(facts: ReportFacts) -> list[Table]:
    """All tables of a report, in order."""
    view = facts.run
    return [
        _rounds(view),
        _devices(view.devices),
        _participation(view.participation),
        _reasons(view.devices),
        _refusals([r for r in view.refusals if r.kind == REFUSED]),
        _verdicts([r for r in view.refusals if r.kind != REFUSED]),
        layers_table(facts.warm_up, facts.last),
        _files(facts.files),
        _configuration(facts),
    ]


def _rounds(view: RunView) -> Table:
    densities, metric = [str(d) for d in view.run.densities], view.metric
    few, words = len(densities) <= FEW, metric.words

    def scores(found: Scores | None) -> list[str]:
        each = [
            "-"
            if not found or metric.name not in found.get(d, {})
            else value_text(found[d][metric.name], is_share=metric.is_share)
            for d in densities
        ]
        both = zip(densities, each, strict=True)
        return each if few else ["; ".join(f"{d}: {text}" for d, text in both)]

    return table(
        "Rounds",
        f"Rounds, with the model's {words} at each density",
        ("round", "state", "#updates", "#time", "#bytes up", "#bytes down"),
        *((f"#{words} at {d}" for d in densities) if few else [f"~{words} at"]),
        "~note",
        rows=(
            (
                r.no or "warm-up",
                r.phase.value,
                f"{r.accepted} of {r.goal}",
                "-" if r.seconds is None else f"{r.seconds:.1f} s",
                human_bytes(r.up_bytes),
                human_bytes(r.down_bytes),
                *scores(r.scores),
                r.note or r.worse,
            )
            for r in view.rounds
        ),
        empty="No round has begun yet.",
    )


def _devices(devices: Sequence[DeviceView]) -> Table:
    return table(
        "Devices",
        "Devices; bytes count since each was installed",
        ("device", "board", "#density", "engine", "#sent", "#received"),
        *("#peak memory", "#updates refused"),
        rows=(
            (
                d.name,
                d.board,
                _density(d),
                d.engine or "-",
                human_bytes(d.sent),
                human_bytes(d.received),
                f"{d.rss_mib} MiB" if d.rss_mib else "-",
                d.refused,
            )
            for d in devices
        ),
        empty="No device has sent a HELLO yet.",
    )


def _reasons(devices: Sequence[DeviceView]) -> Table:
    return table(
        "Reasons",
        "Reasons for each device's density, and for pausing or doing less",
        ("device", "#density", "~why this density", "~waits or does less, because"),
        rows=(
            (
                d.name,
                _density(d),
                d.why,
                "; ".join(filter(None, (d.note, d.pace, d.drift, d.failing))),
            )
            for d in devices
        ),
        empty="No device has sent a HELLO yet.",
    )


def _density(device: DeviceView) -> object:
    return "-" if device.density is None else device.density


def _participation(found: Participation) -> Table:
    share = "-" if found.share is None else percent(found.share)
    return table(
        "Participation",
        f"Rounds of each device; {share} of all examples were trained on at least once",
        (
            *("device", "#examples", "#asked", "#in the model", "#last in round"),
            *("#examples trained on", "#part of training", "~note"),
        ),
        rows=(
            (
                d.name,
                d.examples,
                d.asked,
                d.trained,
                "-" if d.last is None else d.last,
                d.seen,
                "-" if d.part is None else percent(d.part),
                f"{d.warning}: {d.reason}" if d.warning else d.sits_out,
            )
            for d in found.devices
        ),
        empty="No device has sent a HELLO yet.",
    )


def _refusals(refusals: Sequence[RefusalRow]) -> Table:
    return table(
        "Refused updates",
        "By device and verdict",
        ("device", "verdict", "#times", "#last in round", "~why"),
        rows=((r.device, r.verdict, r.count, r.round, r.why) for r in refusals),
        empty="None.",
    )


def _verdicts(others: Sequence[RefusalRow]) -> Table:
    """Verdicts on what was bounded and accepted, came late, or was no update."""
    return table(
        "Other verdicts",
        "Updates that were scaled down or late, and messages that were invalid",
        ("device", "what was done", "#times", "#last in round", "~why"),
        rows=((r.device, r.kind, r.count, r.round, r.why) for r in others),
        empty="None.",
    )


def _files(files: Sequence[FileView]) -> Table:
    return table(
        "Files",
        "Models and exports with their digests",
        ("file", "#size", "~SHA-256", "~checks"),
        rows=(
            (
                f.path,
                human_bytes(f.size),
                f.sha256,
                "; ".join(f"{name}: {found}" for name, found in f.checks) or "-",
            )
            for f in files
        ),
        empty="No model has been deployed yet.",
    )


def _configuration(facts: ReportFacts) -> Table:
    return table(
        "Configuration",
        f"As it took effect; SHA-256 of run.toml: {facts.digest}",
        ("key", "~value"),
        rows=flat(facts.settings or {}),
        empty="",
    )
