"""A run as people see it: a picture that goes on changing, or one line per change."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from coordinator.views.deployment import deployment_text
from coordinator.views.device_scores import tests_text
from coordinator.views.run_view import FleetView, Observe
from coordinator.views.scores import score_text
from coordinator.views.terminal.device_table import fleet_table, reasons
from edge_sdk.terminal import OutputOptions, not_on_stderr

__all__ = ["live", "render", "score_line"]

log = logging.getLogger(__name__)


def render(view: FleetView, width: int, *, height: int | None = None) -> Group:
    """The view as rich draws it.

    Args:
        view: What there is to see.
        width: Columns there are.
        height: Lines there are; None shows every device, and why it has its density.
    """
    head = Text()
    head.append(f" {view.phase} ", style="bold reverse")
    if view.goal:
        head.append(f"  updates {view.accepted}/{view.goal}")
    wanted = f"/{view.rounds}" if view.rounds else ""
    head.append(f"  rounds {view.rounds_done}{wanted} done")
    if view.left_s is not None:
        head.append(f"  deadline in {max(view.left_s, 0):.0f} s", style="dim")
    most = None if height is None else max(height - 5, 3)
    table = fleet_table(view.devices, view.scores, width, most=most, metric=view.metric)
    below = [] if height is not None else [reasons(view.devices, width)]
    better = deployment_text(view.scores, view.metric) if view.phase == "done" else ""
    told = [Text(better)] if better else []
    return Group(head, score_line(view), *told, table, *below)


def score_line(view: FleetView) -> Text:
    """The latest scores, by density."""
    if not view.scores:
        return Text("not evaluated yet", style="dim")
    parts = [
        f"d={density:g}: {score_text(metrics, view.metric)}"
        for density, metrics in sorted(view.scores.items())
    ]
    line = f"after round {view.scored_round}:  " + "   ".join(parts)
    if view.metric is not None:
        told = (
            f"\ntested after round {view.tested_round}, d={density}: "
            f"{tests_text(found, view.metric)}"
            for density, found in sorted(view.tests.items())
        )
        line += "".join(told)
    return Text(line)


@contextmanager
def live(look: OutputOptions) -> Iterator[Observe]:
    """An observer: a live table on a terminal, log lines elsewhere."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    plain = look.log_format == "json" or console.is_dumb_terminal
    lines = _lines()
    if look.quiet or plain or not sys.stderr.isatty():
        yield lines
        return
    with Live(console=console, auto_refresh=False) as screen, not_on_stderr(__name__):

        def observe(view: FleetView) -> None:
            lines(view)  # for the run's own log
            screen.update(
                render(view, console.width, height=console.height), refresh=True
            )

        yield observe


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
            log.info("%s", score_line(view).plain)

    return observe
