"""One run of the comparison, and what it gives."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import coordinator
from coordinator.simulation.fleet import deal
from coordinator.simulation.workers.engine import PROGRAM_FILE
from edge_sdk import Examples
from edge_sdk.training.scoring import metrics_for, score
from examples.unequal_fleets.data import SETS, Federated
from examples.unequal_fleets.methods import FLEET, METHODS, Method, Rate
from examples.unequal_fleets.warm_ups import WarmUps

__all__ = ["Job", "best_within", "mean_over_devices", "run"]

_PROGRAMS: dict[str, bytes] = {}  # data set -> its compiled model, in this process


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


def run(job: Job, files: Path, results: Path) -> dict[str, Any]:
    """Trains and scores; JSON.

    Args:
        job: What.
        files: Folder of the data sets' files.
        results: Folder of all results; warm-ups that runs share are there.
    """
    torch.set_num_threads(1)
    data, method = SETS[job.data], METHODS[job.method]
    found = data.read(files, job.seed)
    evaluation = found.validation if job.part == "tune" else found.test
    rate = job.rate.rate
    warm_ups = WarmUps(results, job.data, job.seed, rate, method)
    with tempfile.TemporaryDirectory() as folder:
        _give_program(job.data, Path(folder))
        done = coordinator.simulate(
            data.task,
            devices=found.train,
            evaluation=evaluation,
            algorithm=warm_ups.algorithm(),
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
                "recalibrate": data.recalibrate,
            },
            evaluate_every=job.rounds,
            folder=folder,
            **method.more,
        )
        _PROGRAMS[job.data] = _program(Path(folder))
        warm_up_bytes = warm_ups.after(done)
        history = done.history
        pooled = {
            density: 100 * float(history[f"accuracy@{density:g}"][-1])
            for density in method.densities
        }
        at_home, deployed = {}, {}
        if job.part == "test":
            at_home = _at_home(done, method, found, job.seed)
            scores = {
                d: _accuracy(done, done.model(d), found.validation)
                for d in method.densities
            }
            deployed = best_within(scores, pooled)
    return {
        **asdict(job),
        "accuracy": {f"{d:g}": value for d, value in pooled.items()},
        "deployed": {f"{d:g}": value for d, value in deployed.items()},
        "at_home": at_home,
        "devices": mean_over_devices(pooled),
        "bytes": int(history["bytes_up"][-1] + history["bytes_down"][-1])
        + warm_up_bytes,
    }


def best_within(
    validation: dict[float, float], accuracy: dict[float, float]
) -> dict[float, float]:
    """Accuracy of what devices deploy that pick among the networks they can hold.

    A device of a density holds the networks of all smaller densities, too, and deploys
    the best on validation examples; the larger one where two are level.

    Args:
        validation: Per density, percent on the examples that choose.
        accuracy: Per density, percent on those that judge.
    """
    deployed = {}
    for density in accuracy:
        held = sorted((d for d in validation if d <= density), reverse=True)
        deployed[density] = accuracy[max(held, key=validation.__getitem__)]
    return deployed


def _accuracy(done: coordinator.Run, model: torch.nn.Module, data: Examples) -> float:
    """Percent."""
    return 100 * score(model, done.task, data, metrics_for(done.task, data))["accuracy"]


def mean_over_devices(pooled: dict[float, float]) -> float:
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
        _accuracy(done, models[d], home)
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


def _give_program(data: str, folder: Path) -> None:
    """Has a run begin with the program that this process has compiled already."""
    if found := _PROGRAMS.get(data):
        (folder / PROGRAM_FILE).write_bytes(found)


def _program(folder: Path) -> bytes:
    """The program that a run has trained with; empty without one."""
    place = folder / PROGRAM_FILE
    return place.read_bytes() if place.exists() else b""
