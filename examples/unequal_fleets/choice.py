"""Which runs there are, and the rate that validation examples choose for a row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from examples.unequal_fleets.data import SETS
from examples.unequal_fleets.judge import Job
from examples.unequal_fleets.methods import GRID, WITH_WARM_UP, Rate

__all__ = ["TUNING_SEEDS", "jobs_of"]

TUNING_SEEDS = (101, 102)  # no seed that is judged
SHORTER = 4  # of a halving: the first runs have a quarter of the rounds
FINALISTS = 2  # and so many rates of a row are run whole


def jobs_of(
    folder: Path,
    part: str,
    sets: list[str],
    methods: list[str],
    seeds: int,
    short: int | None,
    tuning: int = len(TUNING_SEEDS),
    *,
    halving: bool = False,
) -> list[Job]:
    """What is to be run, without what is done; one seed of everything comes first.

    Args:
        folder: Of the results.
        part: Whether to tune or to test.
        sets: Of data.
        methods: Rows.
        seeds: That judge.
        short: Rounds in place of a set's own.
        tuning: Seeds that choose.
        halving: Whether a row's eight rates have a quarter of the rounds, and the best
            two of them all. What follows from runs that are still to be done comes with
            the next call.
    """
    wanted, chosen_on = [], TUNING_SEEDS[:tuning]
    for data in sets:
        rounds = short or SETS[data].rounds
        if part == "tune":
            first = max(1, rounds // SHORTER) if halving else rounds
            points = [(r, s) for s in chosen_on for r in GRID]
            wanted += [
                Job(data, m, r, s, part, first) for r, s in points for m in methods
            ]
            wanted += [
                Job(data, method, rate, seed, part, rounds)
                for method in methods
                for rate in (_best(folder, data, method, first, chosen_on) or [])[
                    :FINALISTS
                ]
                for seed in chosen_on
                if halving
            ]
            continue
        for seed in range(1, seeds + 1):
            for method in methods:
                tuned = WITH_WARM_UP.get(method, method)
                rate = best_rate(
                    folder, data, tuned, rounds, chosen_on, halving=halving
                )
                if rate is None:
                    print(f"{data}, {method}: tune it first; left out")
                else:
                    wanted.append(Job(data, method, rate, seed, part, rounds))
    left = dict.fromkeys(wanted)  # a halving of one round has both runs in one
    return [job for job in left if not job.place(folder).exists()]


def best_rate(
    folder: Path,
    data: str,
    method: str,
    rounds: int,
    seeds: Sequence[int],
    *,
    halving: bool,
) -> Rate | None:
    """The rate with the highest mean validation accuracy; None before it is tuned."""
    among = GRID
    if halving:
        first = max(1, rounds // SHORTER)
        among = _best(folder, data, method, first, seeds)[:FINALISTS]
    found = _best(folder, data, method, rounds, seeds, among)
    return found[0] if found else None


def _best(
    folder: Path,
    data: str,
    method: str,
    rounds: int,
    seeds: Sequence[int],
    among: Sequence[Rate] = GRID,
) -> list[Rate]:
    """Rates by their mean validation accuracy, best first; none before all are run."""
    found = {}
    for rate in among:
        places = [
            Job(data, method, rate, seed, "tune", rounds).place(folder)
            for seed in seeds
        ]
        if all(place.exists() for place in places):
            devices = [json.loads(place.read_text())["devices"] for place in places]
            found[rate] = statistics.mean(devices)
    if len(found) < len(among):
        return []
    return sorted(found, key=found.__getitem__, reverse=True)
