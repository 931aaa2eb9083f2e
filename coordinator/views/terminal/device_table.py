"""The fleet as a table that fits: for the live display, `status` and `devices`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coordinator.views.device_view import DeviceView
from coordinator.views.scores import ShownMetric, metric_of
from coordinator.views.units import short_bytes, short_time
from edge_sdk.terminal import plain

__all__ = ["fleet_table", "reasons"]

WIDE = 130  # columns from which on board, engine and reasons have room of their own
LEAST = 6  # characters of a name that still say something
SCORE = 6  # characters of a metric's name above its column
NUMBERS = 46  # what the columns of numbers take, with the gaps between all
SHORT = {
    "accuracy": "acc.",
    "label_accuracy": "labels",
    "macro_f1": "F1",
    "average_precision": "AP",
}
COLOURS = {
    "training": "yellow",
    "uploading": "cyan",
    "fetching": "blue",
    "done": "green",
    "offline": "red",
}


@dataclass(frozen=True)
class _Row:
    device: str
    board: str
    density: str
    now: str
    colour: str
    numbers: tuple[str, ...]
    engine: str
    why: str


def fleet_table(
    devices: Sequence[DeviceView],
    scores: Mapping[float, Mapping[str, float]],
    width: int,
    *,
    most: int | None = None,
    metric: ShownMetric | None = None,
) -> RenderableType:
    """One line per device, never broken; what does not fit is cut in the words.

    Args:
        devices: In the order to show.
        scores: Latest metrics by density: a device's score is its density's.
        width: Columns there are, from 60 on.
        most: Lines there are; the devices at work come first, then.
        metric: The run's primary one; None finds one among the scores.
    """
    shown = list(devices)
    if most is not None and len(shown) > most:
        shown = sorted(shown, key=_idle)[: max(most - 1, 1)]
    metric = metric_of(scores.values(), metric)
    rows = [_row(device, scores, metric) for device in shown]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    wide = width >= WIDE
    room = _rooms(rows, width, wide=wide)
    table.add_column("device", no_wrap=True, max_width=room["device"])
    table.add_column("board", no_wrap=True, max_width=room["board"])
    table.add_column("dens.", no_wrap=True, justify="right")
    table.add_column("now", no_wrap=True, max_width=room["now"])
    short = SHORT.get(metric.name, metric.words)
    scored = short if scores and len(short) <= SCORE else None
    for name in ("seen", "up", "down", "MiB", "°C", scored or "score"):
        table.add_column(name, no_wrap=True, justify="right")
    if wide:
        table.add_column("engine", no_wrap=True)
        table.add_column("why", overflow="fold")
    for row in rows:
        table.add_row(
            row.device,
            row.board,
            row.density,
            Text(row.now, style=row.colour),
            *row.numbers,
            *((row.engine, row.why) if wide else ()),
        )
    left_out = len(devices) - len(shown)
    if not devices:
        return Text("no device has sent a HELLO yet", style="dim")
    if left_out:
        return Group(table, Text(f"... and {left_out} more", style="dim"))
    return table


def reasons(devices: Sequence[DeviceView], width: int) -> Group:
    """Reasons for pauses, and for each device's density, grouped.

    Nothing where the table has a column for it.
    """
    if width >= WIDE:
        return Group()
    groups: dict[tuple[str, str], list[str]] = {}
    for device in devices:
        if device.reasons:
            at = _density(device.density), device.reasons
            groups.setdefault(at, []).append(device.name)
    notes = [f"{d.name} paused: {d.note}" for d in devices if d.online and d.note]
    return Group(
        *(Text(plain(note), style="magenta", overflow="fold") for note in notes),
        *(
            Text(
                plain(f"{density}  {_names(names)}: {why}"),
                style="dim",
                overflow="fold",
            )
            for (density, why), names in groups.items()
        ),
    )


def _row(
    device: DeviceView,
    scores: Mapping[float, Mapping[str, float]],
    metric: ShownMetric,
) -> _Row:
    now, colour = _now(device)
    return _Row(
        device=device.name,
        board=plain(device.board),
        density=_density(device.density),
        now=plain(now),
        colour=colour,
        numbers=(
            short_time(device.seen_s),
            short_bytes(device.sent),
            short_bytes(device.received),
            str(device.rss_mib or "-"),
            "-" if device.celsius is None else f"{device.celsius:.0f}",
            _score(metric, scores.get(device.density or 0.0)),
        ),
        engine=plain(device.engine),
        why=plain(device.reasons),
    )


def _score(metric: ShownMetric, metrics: Mapping[str, float] | None) -> str:
    value = metric.of(metrics)
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if metric.is_share else f"{value:.3g}"


def _now(device: DeviceView) -> tuple[str, str]:
    """Text and colour of what a device does."""
    now = (device.phase or "-") if device.online else "offline"
    if device.is_revoked:
        return "revoked", COLOURS["offline"]
    if device.online and device.note:
        return _refused(f"paused: {device.note}", device), "magenta"
    if device.online and device.task == "accepted" and now == "idle":
        now = "done"
    colour = COLOURS.get(now, "dim")
    if now == "training" and device.progress is not None:
        now = f"{now} {100 * device.progress:.0f} %"
    return _refused(now, device), colour


def _refused(now: str, device: DeviceView) -> str:
    return f"{now}, {device.refused} refused" if device.refused else now


def _idle(device: DeviceView) -> tuple[bool, bool, str]:
    return not device.online, device.phase in ("", "idle"), device.name


def _density(density: float | None) -> str:
    return "-" if density is None else f"{density:g}"


def _rooms(rows: Sequence[_Row], width: int, *, wide: bool) -> dict[str, int]:
    """Widths of the three columns of words: what they need, cut evenly."""
    wants = {
        name: max([len(name), *(len(str(getattr(row, name))) for row in rows)])
        for name in ("device", "board", "now")
    }
    room = width // 2 if wide else max(width - NUMBERS, 3 * LEAST)
    while sum(wants.values()) > room:
        longest = max(wants, key=lambda name: wants[name])
        if wants[longest] <= LEAST:
            break
        wants[longest] -= 1
    return wants


def _names(names: Sequence[str]) -> str:
    few = ", ".join(names[:4])
    return few if len(names) <= 4 else f"{few} and {len(names) - 4} more"
