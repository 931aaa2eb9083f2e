"""Draws the state machines from their tables, for docs/protocol.md.

    python tests/protocol/diagrams.py --write

A table maps (phase, event) to a rule, and a rule says the next phase only when it runs.
So each rule is run on samples of every situation of its phase, and what happened is
drawn: what leads from the phase of a row to that of a column; on the diagonal what only
has effects. A table needs no program to be drawn, here or in a site without internet.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from coordinator.rounds import state as rounds
from edge_sdk import session
from edge_sdk.wire import messages, rules
from edge_sdk.wire.blob import manifest_of

__all__ = ["DOCUMENT", "drawn", "render"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
Edge = tuple[str, str, str]  # phase, event, next phase

BASE = manifest_of(b"base")
ORDER = messages.TaskOrder(
    "1-a",
    1,
    0.5,
    BASE,
    messages.MaskRecipe(1, {"fc": 2}, bytes(32)),
    rules.Frozen(),
    messages.Training(1, 4, 0.1),
    1000,
    0,
    "fp32",
)
OFFER = messages.Offer("1-a", BASE, bytes(32), "fp32", 8, 1.0, {})
LATER = msgspec.structs.replace(ORDER, id="2-b", round_no=2)


def _session_edges() -> set[Edge]:
    phase = session.SessionPhase
    held: dict[session.SessionPhase, dict[str, Any]] = {
        phase.BOOT: {},
        phase.IDLE: {},
        phase.FETCH: {"order": ORDER},
        phase.TRAIN: {"order": ORDER},
        phase.UPLOAD: {"order": ORDER, "offer": OFFER},
    }
    heard: list[messages.Message] = [
        ORDER,
        LATER,
        messages.Need("1-a", [(0, 1)], 1),
        messages.Cancel("1-a", ""),
        messages.Wait(1, ""),
        messages.Announce("running", "digits", 1, 9, []),
        *(
            messages.Receipt("1-a", verdict)  # type: ignore[arg-type]
            for verdict in ("accepted", "late", "rejected", "corrupt")
        ),
    ]
    events: list[session.Event] = [
        session.Booted(0, None, None),
        session.Booted(0, ORDER, None),
        session.Booted(0, ORDER, OFFER),
        session.Connected(),
        session.Nudge(),
        session.Fetched(BASE.sha256.hex()),
        session.UpdatePacked(OFFER),
        session.Broke("1-a", "no memory"),
        *(session.Heard(0, message) for message in heard),
    ]
    edges: set[Edge] = set()
    for start, holds in held.items():
        for event in events:
            about = event.message if isinstance(event, session.Heard) else event
            if (start, type(about)) not in session.NEXT:
                continue
            after, effects = session.advance(session.Session(start, **holds), event)
            name = type(about).__name__
            if isinstance(about, messages.Receipt) and about.verdict == "corrupt":
                name += " corrupt"
            if after.phase is not start or effects:
                edges.add((start.name, name, after.phase.name))
    return edges


def _round_edges() -> set[Edge]:
    phase, task = rounds.RoundPhase, rounds.TaskPhase
    cohorts = [
        {"a": task.ASSIGNED},
        {"a": task.ASSIGNED, "b": task.ACCEPTED},
        {"a": task.ASSIGNED, "b": task.REJECTED},
        {"a": task.ASSIGNED, "b": task.ASSIGNED, "c": task.ASSIGNED},
    ]
    events: list[rounds.Event] = [
        rounds.Planned(),
        rounds.Selected(("a",)),
        *(
            kind("a")
            for kind in (
                rounds.Acked,
                rounds.Offered,
                rounds.Accepted,
                rounds.Rejected,
                rounds.Failed,
            )
        ),
        rounds.Deadline(),
    ]
    edges: set[Edge] = set()
    for start in phase:
        for tasks in cohorts:
            for goal, quorum in ((1, 1), (2, 1), (2, 2)):
                before = rounds.Round(1, goal, quorum, start, tasks)
                if before.count(task.ACCEPTED) >= goal:
                    continue  # it would have closed before
                for event in events:
                    if (start, type(event)) not in rounds.NEXT:
                        continue
                    after, effects = rounds.advance(before, event)
                    if after != before or effects:
                        name = type(event).__name__
                        edges.add((start.name, name, after.phase.name))
    return edges


def drawn(edges: Iterable[Edge], phases: Sequence[str]) -> str:
    """The edges as a table in Markdown, with phases in the order given.

    A phase that nothing leads to has no column, one that nothing leaves no row.
    """
    cells: dict[tuple[str, str], list[str]] = defaultdict(list)
    for start, event, end in sorted(edges):
        cells[start, end].append(event)
    ends = [phase for phase in phases if any(end == phase for _, end in cells)]
    lines = [["from", *(f"to {end}" for end in ends)], ["---"] * (1 + len(ends))]
    for start in phases:
        row = [", ".join(cells[start, end]) for end in ends]
        lines += [[f"**{start}**", *row]] if any(row) else []
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(text: str) -> str:
    """The document with both diagrams as the tables have them now."""
    for name, edges, phases in (
        ("session", _session_edges(), session.SessionPhase),
        ("round", _round_edges(), rounds.RoundPhase),
    ):
        begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        drawing = drawn(edges, [p.name for p in phases])
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, count = re.subn(
            pattern, f"{begin}\n\n{drawing}\n\n{end}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{DOCUMENT} has no place for the diagram of the {name}")
    return text


def main() -> None:
    """Prints the document as it should be, or writes it."""
    parser = argparse.ArgumentParser(description="Draw the state machines.")
    parser.add_argument("--write", action="store_true")
    text = render(DOCUMENT.read_text(encoding="utf-8"))
    if parser.parse_args().write:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
