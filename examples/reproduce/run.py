"""A published table, run cell by cell."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from coordinator.simulation.record import RoundRecord, read_records
from coordinator.simulation.run import simulate
from coordinator.simulation.settings import SimulationSettings
from edge_sdk.errors import DataError, SettingsError, two_sentences
from edge_sdk.tasks.task import load_task
from examples.reproduce.pairs import BySeed, interval, paired
from examples.reproduce.tables import Cell, Kind, cells_of

__all__ = ["difference_text", "markdown", "reproduce"]

log = logging.getLogger(__name__)

Run = Sequence[RoundRecord]
Row = dict[str, str]  # column to what stands there


def reproduce(
    folder: Path,
    table: str,
    *,
    kind: Kind,
    seeds: int,
    rounds: int | None = None,
    score_every: int | None = None,
    only: str = "",
    worker_count: int = 0,
    report: bool = False,
    cache: Path | None = None,
) -> list[Row]:
    """Runs what is missing of a table, then gives it.

    Every cell at seed 1 comes before any at seed 2, so that a table that is stopped is
    whole at fewer seeds. The same command goes on with it.

    Args:
        folder: One subfolder per cell, horizon and seed.
        table: One of `TABLES`.
        kind: The settings as resolved, or with the released code's quirks.
        seeds: Seeds 1, 2, ... of each cell.
        rounds: A shorter horizon than the published one.
        score_every: Score after every so many rounds, if not as published.
        only: Cells whose name contains this.
        worker_count: Processes; 0 takes all cores.
        report: Run nothing; give what is there.
        cache: Where fetched and partitioned data stay.

    Returns:
        A row per cell; one without a run has no figures. Its difference is to the last
        row above it that others are measured against (FLASH where it is there), seed
        by seed: two methods at one seed have the same partition and the same initial
        weights.

    Raises:
        SettingsError: If there is no such table or cell.
        EdgeError: If a run cannot start, or a worker dies. A cell whose data is not
            here is left out and named in the log.
    """
    cells = [cell for cell in cells_of(table, kind) if only in cell.name]
    if not cells:
        raise SettingsError(
            f"table {table} has no cell with {only!r} in its name",
            remedy="Cells: " + ", ".join(c.name for c in cells_of(table, kind)) + ".",
        )
    for seed in _to(seeds):
        for cell in {c.run: c for c in cells}.values() if not report else []:
            place = _place(folder, cell, rounds, seed)
            _run(place, _scaled(cell, rounds, score_every, seed), worker_count, cache)
    return _rows(folder, cells, rounds, seeds)


def markdown(rows: Sequence[Row]) -> str:
    """A table of `reproduce`; at least one row."""
    head, *lines = (
        f"| {' | '.join(line)} |" for line in (rows[0], *(r.values() for r in rows))
    )
    return "\n".join([head, "|" + "---|" * len(rows[0]), *lines]) + "\n"


def _rows(
    folder: Path, cells: Sequence[Cell], rounds: int | None, seeds: int
) -> list[Row]:
    rows: list[Row] = []
    above: BySeed = {}
    for cell in cells:
        runs = {s: read_records(_place(folder, cell, rounds, s)) for s in _to(seeds)}
        wanted = rounds or cell.settings.rounds
        whole = {s: run for s, run in runs.items() if _is_whole(run, wanted)}
        found = {s: _percent(cell, run) for s, run in whole.items()}
        difference = "" if cell.measure else difference_text(found, above)
        above = found if cell.measure else above
        down, up, fewer = _bytes(cell, list(whole.values()))
        rows.append(
            {
                "cell": cell.name,
                "rounds": str(wanted),
                "seeds": str(len(whole)),
                "accuracy": _mean(list(found.values())),
                "difference (95 %)": difference,
                "published": _published(cell, wanted),
                "bytes down": down,
                "bytes up": up,
                "fewer than dense": fewer,
            }
        )
    return rows


def difference_text(one: BySeed, other: BySeed) -> str:
    """The mean of one minus other over the seeds of both, and its 95 % interval.

    Args:
        one: Seed to percent.
        other: Alike.

    Returns:
        Points, Student's t over the paired differences; the mean alone at one seed, and
        nothing where no seed has both.
    """
    points = paired(one, other)
    if len(points) < 2:
        return "".join(f"{point:+.2f}" for point in points)
    mean, low, high = interval(points)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _to(seeds: int) -> range:
    return range(1, seeds + 1)


def _percent(cell: Cell, run: Run) -> float:
    return 100 * run[-1].scores[f"{cell.density:g}"]["accuracy"]


def _scaled(
    cell: Cell, rounds: int | None, score_every: int | None, seed: int
) -> SimulationSettings:
    settings = cell.settings
    return msgspec.structs.replace(
        settings,
        seed=seed,
        rounds=rounds or settings.rounds,
        evaluate_every=score_every or settings.evaluate_every,
    )


def _run(
    place: Path, settings: SimulationSettings, count: int, cache: Path | None
) -> None:
    try:
        simulate(
            place,
            settings,
            worker_count=count,
            cache=cache,
            observe=_say(place.name),
        )
    except DataError as error:
        why = two_sentences(error, error.help)
        log.warning("%s is left out: %s", place.name, why)


def _say(name: str) -> Callable[[RoundRecord], None]:
    """Tells of every tenth round."""

    def say(record: RoundRecord) -> None:
        if record.round % 10 == 0:
            log.info("%s: round %d (%.1f s)", name, record.round, record.wall_s)

    return say


def _place(folder: Path, cell: Cell, rounds: int | None, seed: int) -> Path:
    return folder / f"{cell.run}-r{rounds or cell.settings.rounds}-s{seed}"


def _is_whole(run: Run, rounds: int) -> bool:
    return sum(1 for r in run if r.round and not r.note) >= rounds


def _mean(found: Sequence[float]) -> str:
    if not found:
        return ""
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{statistics.mean(found):.2f} +- {statistics.stdev(found):.2f}"


def _published(cell: Cell, rounds: int) -> str:
    if cell.published is None:
        return ""
    mean, deviation = cell.published
    text = f"{mean:.2f}" + ("" if deviation is None else f" +- {deviation:.2f}")
    theirs = cell.settings.rounds
    return text if rounds == theirs else f"{text} ({theirs:,} rounds)"


def _bytes(cell: Cell, runs: Sequence[Run]) -> tuple[str, str, str]:
    """Per update, warm-up included, and how many times fewer than dense fp32."""
    if not runs:
        return "", "", ""
    updates = sum(len(r.accepted) for run in runs for r in run if r.round)
    down = sum(run[-1].total_down for run in runs) / updates
    up = sum(run[-1].total_up for run in runs) / updates
    model = load_task(cell.settings.task).model()
    dense = 4 * sum(p.numel() for p in model.parameters())
    return f"{down:,.0f}", f"{up:,.0f}", f"{dense / down:.1f}x / {dense / up:.1f}x"
