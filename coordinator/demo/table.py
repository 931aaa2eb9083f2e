"""The demo's closing table: what each density cost and what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from coordinator.views.scores import metric_of, told_metric
from coordinator.views.units import human_bytes

__all__ = ["closing_table"]

Reports = Mapping[float, Mapping[str, Any]]


def closing_table(
    run: Mapping[str, Any],
    dense: Mapping[str, Any],
    reports: Reports,
    rounds: int,
    width: int,
) -> Group:
    """One row per density, beside the same run dense.

    Args:
        run: `coordinator.views.terminal.status.summary` of the federation.
        dense: The same of the dense reference, fewer rounds.
        reports: Density to its export report.
        rounds: Rounds of the federation, to which the dense bytes are scaled.
        width: Columns there are; below 100 a ratio stands under its figure.
    """
    scores = run["scores"][max(run["scores"], key=int)]
    metric = metric_of(scores.values(), told_metric(run.get("metric")))
    up0, down0 = _dense_bytes(dense, rounds)
    space = " " if width >= 100 else "\n"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "density",
        metric.words,
        "kept",
        "devices",
        "up/device",
        "down/device",
        "ONNX",
        "parity",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for density in sorted(reports):
        counts = run["counts"][str(density)]
        up, down, number = _mean_bytes(run["devices"], density)
        model = reports[density]
        table.add_row(
            f"{density:g}",
            metric.text(scores[str(density)]),
            f"{sum(counts.values()):,}",
            str(number),
            _against(up, up0, space),
            _against(down, down0, space),
            f"{human_bytes(model['file_bytes'])}{space}({model['size_ratio']:.1f}x)",
            f"{model['findings']['parity']['max_relative']:.1e}",
        )
    note = Text(style="dim")
    note.append(
        "bytes: TCP streams as the kernel counted them, protocol, retries and warm-up "
        f"included; (x): times fewer than dense.\ndense: {human_bytes(up0)} up, "
        f"{human_bytes(down0)} down per device, measured over {dense['rounds_done']} "
        f"rounds of FedAvg here and scaled to {rounds}.\n"
        f"{metric.words}: the whole test set, at the deployed density. parity: largest "
        "relative difference between onnxruntime and torch."
    )
    engines = ", ".join(f"{d['name']} {d['engine']}" for d in run["devices"])
    updates = Text(
        f"updates per round: {_range(run)}   engines: {engines}", style="dim"
    )
    return Group(table, note, updates)


def _dense_bytes(dense: Mapping[str, Any], rounds: int) -> tuple[float, float]:
    scale = rounds / dense["rounds_done"]
    devices = dense["devices"]
    sent = sum(d["sent"] for d in devices) / len(devices)
    received = sum(d["received"] for d in devices) / len(devices)
    return sent * scale, received * scale


def _mean_bytes(
    devices: list[Mapping[str, Any]], density: float
) -> tuple[float, float, int]:
    mine = [d for d in devices if d["density"] == density]
    if not mine:
        return 0.0, 0.0, 0
    sent = sum(d["sent"] for d in mine) / len(mine)
    received = sum(d["received"] for d in mine) / len(mine)
    return sent, received, len(mine)


def _against(count: float, dense: float, space: str) -> str:
    return f"{human_bytes(count)}{space}({dense / count:.1f}x)" if count else "-"


def _range(run: Mapping[str, Any]) -> str:
    counts = [n for no, n in run["updates"].items() if int(no) > 0]
    return f"{min(counts)} to {max(counts)}" if counts else "none"
