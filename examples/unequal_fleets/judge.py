"""The runs of the comparison: which there are, and what one gives."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import coordinator
from coordinator.simulation.fleet import deal
from edge_sdk.training.scoring import metrics_for, score
from examples.unequal_fleets.data import SETS, Federated
from examples.unequal_fleets.methods import (
    FLEET,
    GRID,
    METHODS,
    WITH_WARM_UP,
    Method,
    Rate,
)

__all__ = ["TUNING_SEEDS", "Job", "jobs_of", "run"]

TUNING_SEEDS = (101, 102)  # no seed that is judged


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        data: Name of the data set.
        method: Name of the method.
        rate: Its rate and momentum.
        seed: Of everything random.
        part: Whether the validation or the test examples are looked at.
        rounds: Rounds after the warm-up.
    """

    data: str
    method: str
    rate: Rate
    seed: int
    part: str
    rounds: int

    def place(self, folder: Path) -> Path:
        """Where its result is."""
        words = self.method.replace(" ", "-").replace(",", "")
        name = f"{words}-{self.rate}-r{self.rounds}-s{self.seed}.json"
        return folder / self.part / self.data / name


def run(job: Job, files: Path) -> dict[str, Any]:
    """Trains and scores; JSON.

    Args:
        job: What.
        files: Folder of the data sets' files.
    """
    torch.set_num_threads(1)
    data, method = SETS[job.data], METHODS[job.method]
    found = data.read(files, job.seed)
    evaluation = found.validation if job.part == "tune" else found.test
    rate = job.rate.rate
    with tempfile.TemporaryDirectory() as folder:
        done = coordinator.simulate(
            data.task,
            devices=found.train,
            evaluation=evaluation,
            algorithm=method.algorithm,
            rounds=job.rounds,
            cohort=data.cohort,
            densities=method.densities,
            fleet=method.fleet,
            seed=job.seed,
            training={
                "rate": rate,
                "rate_end": rate / 10,
                "momentum": job.rate.momentum,
                "batch_size": data.batch,
            },
            evaluate_every=job.rounds,
            folder=folder,
            **method.more,
        )
        history = done.history
        pooled = {
            density: 100 * float(history[f"accuracy@{density:g}"][-1])
            for density in method.densities
        }
        at_home = {} if job.part == "tune" else _at_home(done, method, found, job.seed)
    return {
        **asdict(job),
        "accuracy": {f"{d:g}": value for d, value in pooled.items()},
        "at_home": at_home,
        "devices": _mean_over_devices(pooled),
        "bytes": int(history["bytes_up"][-1] + history["bytes_down"][-1]),
    }


def _mean_over_devices(pooled: dict[float, float]) -> float:
    """Mean accuracy of the model that each device deploys."""
    if len(pooled) == 1:
        return next(iter(pooled.values()))
    return sum(share * pooled[density] for share, density in FLEET)


def _at_home(
    done: coordinator.Run, method: Method, found: Federated, seed: int
) -> dict[str, float]:
    """Each device's own model on its own examples: mean, worst tenth, by density."""
    densities = _dealt(method, len(found.home), seed)
    models = {d: done.model(d) for d in method.densities}
    scores = [
        100
        * score(models[d], done.task, home, metrics_for(done.task, home))["accuracy"]
        for d, home in zip(densities, found.home, strict=True)
    ]
    worst = sorted(scores)[: max(1, len(scores) // 10)]
    by_density = {
        f"{d:g}": statistics.mean(
            s for s, at in zip(scores, densities, strict=True) if at == d
        )
        for d in method.densities
    }
    return {
        "mean": statistics.mean(scores),
        "worst tenth": statistics.mean(worst),
        **by_density,
    }


def _dealt(method: Method, devices: int, seed: int) -> list[float]:
    """Each device's density, as a simulation deals its groups out."""
    if not method.fleet:
        return list(method.densities) * devices
    groups = deal([share for share, _ in FLEET], devices, seed)
    dealt = {
        index: density
        for (_, density), members in zip(FLEET, groups, strict=True)
        for index in members
    }
    return [dealt[index] for index in range(devices)]


def best_rate(
    folder: Path, data: str, method: str, rounds: int, seeds: Sequence[int]
) -> Rate | None:
    """The rate with the highest mean validation accuracy; None before it is tuned."""
    found = {}
    for rate in GRID:
        places = [
            Job(data, method, rate, seed, "tune", rounds).place(folder)
            for seed in seeds
        ]
        if all(place.exists() for place in places):
            devices = [json.loads(place.read_text())["devices"] for place in places]
            found[rate] = statistics.mean(devices)
    return max(found, key=found.__getitem__) if len(found) == len(GRID) else None


def jobs_of(
    folder: Path,
    part: str,
    sets: list[str],
    methods: list[str],
    seeds: int,
    short: int | None,
    tuning: int = len(TUNING_SEEDS),
) -> list[Job]:
    """What is to be run, without what is done; one seed of everything comes first."""
    wanted, chosen_on = [], TUNING_SEEDS[:tuning]
    for data in sets:
        rounds = short or SETS[data].rounds
        if part == "tune":
            points = [(r, s) for s in chosen_on for r in GRID]
            wanted += [
                Job(data, m, r, s, part, rounds) for r, s in points for m in methods
            ]
            continue
        for seed in range(1, seeds + 1):
            for method in methods:
                tuned = WITH_WARM_UP.get(method, method)
                rate = best_rate(folder, data, tuned, rounds, chosen_on)
                if rate is None:
                    print(f"{data}, {method}: tune it first; left out")
                else:
                    wanted.append(Job(data, method, rate, seed, part, rounds))
    return [job for job in wanted if not job.place(folder).exists()]
