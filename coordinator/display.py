"""Live progress: a table on a terminal, one line per change elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordinator.view import DeviceView, FleetView, Observe

__all__ = ["human_bytes", "live", "render"]

log = logging.getLogger(__name__)


def human_bytes(count: float) -> str:
    """Bytes in the unit that leaves few digits.

    Example:
        >>> human_bytes(1536), human_bytes(2_000_000)
        ('1.5 KiB', '1.9 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def render(view: FleetView) -> Group:
    """The view as rich draws it."""
    head = Text()
    head.append(f" {view.phase} ", style="bold reverse")
    if view.goal:
        head.append(f"  updates {view.accepted}/{view.goal}")
    head.append(f"  rounds {max(view.round_no - 1, 0)}/{view.rounds} done")
    if view.left_s is not None:
        head.append(f"  deadline in {max(view.left_s, 0):.0f} s", style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("device", "board", "density", "now", "engine", "sent", "received"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for device in view.devices:
        table.add_row(*_cells(device))
    return Group(head, table, _scores(view))


def _cells(device: DeviceView) -> tuple[Text | str, ...]:
    colour = {
        "training": "yellow",
        "uploading": "cyan",
        "fetching": "blue",
    }.get(device.phase, "dim")
    now = device.phase if device.online else "offline"
    if device.task == "accepted" and now == "idle":
        now, colour = "done", "green"
    if device.note and device.online:
        now, colour = f"paused: {device.note}", "magenta"
    if device.refused:
        now = f"{now} ({device.refused} refused)"
    return (
        device.name,
        device.board,
        "-" if device.density is None else f"{device.density:g}",
        Text(now, style=colour if device.online else "red"),
        device.engine,
        human_bytes(device.sent),
        human_bytes(device.received),
    )


def _scores(view: FleetView) -> Text:
    if not view.scores:
        return Text("accuracy: not measured yet", style="dim")
    parts = [
        f"d={density:g}: {_figure(metrics)}"
        for density, metrics in sorted(view.scores.items())
    ]
    return Text(f"after round {view.scored_round}:  " + "   ".join(parts))


def _figure(metrics: object) -> str:
    if isinstance(metrics, dict) and "accuracy" in metrics:
        return f"{100 * metrics['accuracy']:.2f} %"
    return f"loss {metrics['loss']:.4f}" if isinstance(metrics, dict) else ""


@contextmanager
def live() -> Iterator[Observe]:
    """An observer for the server: a live table, or log lines where there is no tty."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=4, transient=False) as screen:
        yield lambda view: screen.update(render(view))


def _lines() -> Observe:
    last: list[object] = [None, None]

    def observe(view: FleetView) -> None:
        at = view.phase, view.accepted
        if at != last[0]:
            last[0] = at
            busy = ", ".join(
                f"{d.name} {d.phase}"
                for d in view.devices
                if d.phase not in ("", "idle")
            )
            log.info(
                "%s: %d/%d updates%s",
                view.phase,
                view.accepted,
                view.goal,
                f" ({busy})" if busy else "",
            )
        scored = view.scored_round, len(view.scores)
        if view.scores and scored != last[1]:
            last[1] = scored
            log.info("%s", _scores(view).plain)

    return observe
