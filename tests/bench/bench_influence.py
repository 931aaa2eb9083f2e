"""What the bound on a device's influence costs honest fleets, and what it saves.

Run from the root of the project:
    python tests/bench/bench_influence.py [--seeds 3] [--rounds 30] [--json FILE]

The simulation's own rounds on digits, non-IID by LDA and unequal: each device keeps a
share of its examples between an eighth and all. Every update counts as a coordinator
would count it (`coordinator.rounds.contribution_limits`), with a bound on the
influence of 1, 2 and none,
as the plain weighted mean (no bounds at all), and by the trimmed mean. `--liars N` has
N devices of each cohort send the opposite of their change, as long and as heavy as the
bounds let it be.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from coordinator.algorithms.mean import Contribution, clipped
from coordinator.algorithms.trimmed_mean import trimmed_mean
from coordinator.rounds import round_step as steps
from coordinator.rounds.contribution_limits import shares
from coordinator.server import global_model
from coordinator.settings import GateSettings, TrainingSettings, WarmUpSettings
from coordinator.simulation.run import simulate
from coordinator.simulation.settings import SimulationSettings
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.json_text import to_json
from edge_sdk.tasks.task import Examples
from edge_sdk.wire.values import Values

Weigh = Callable[[list[Contribution]], list[Contribution]]
DEVICES, COHORT = 12, 10


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--alpha", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--liars", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    found: dict[str, dict[str, list[float]]] = {}
    for alpha in asked.alpha:
        for name, weigh, trim in _ways(asked.liars):
            got = [
                _accuracy(alpha, seed, asked.rounds, weigh, trim)
                for seed in range(1, asked.seeds + 1)
            ]
            found.setdefault(f"alpha {alpha:g}", {})[name] = got
            mean = 100 * statistics.fmean(got)
            each = " ".join(f"{100 * one:.2f}" for one in got)
            print(f"alpha {alpha:g}  {name:24}{mean:7.2f} %   ({each})", flush=True)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(to_json(found, indent=2))


def _ways(liars: int) -> Iterator[tuple[str, Weigh, float]]:
    for name, clip, weight, influence in (
        ("no bounds", 0.0, 0.0, 0.0),
        ("influence 3", 5.0, 10.0, 3.0),
        ("influence 2", 5.0, 10.0, 2.0),
        ("influence 1", 5.0, 10.0, 1.0),
    ):
        bounds = {"clip": clip, "weight": weight, "influence": influence}
        yield name, partial(_bounded, liars=liars, bounds=bounds), 0.0
    bounds = {"clip": 5.0, "weight": 10.0, "influence": 1.0}
    yield "trimmed mean, 0.1", partial(_bounded, liars=liars, bounds=bounds), 0.1


def _bounded(
    cohort: list[Contribution], *, liars: int, bounds: dict[str, float]
) -> list[Contribution]:
    """The cohort as a coordinator counts it; the first ones lie."""
    said = [_lie(one) if i < liars else one for i, one in enumerate(cohort)]
    norms = [one.change.norm() for one in said]
    examples = [round(one.examples) for one in said]
    counted = shares(norms, examples, [], **bounds)
    return [
        replace(one, examples=share.weight, change=clipped(one.change, share.scale))
        for one, share in zip(said, counted, strict=True)
    ]


def _lie(one: Contribution) -> Contribution:
    """The opposite change, five times as long, of ten times the examples."""
    masked = {n: np.float32(-5) * v for n, v in one.change.masked.items()}
    change = Values(one.change.mask_digest, masked, one.change.dense)
    return replace(one, examples=10 * one.examples, change=change)


def _accuracy(alpha: float, seed: int, rounds: int, weigh: Weigh, trim: float) -> float:
    """The last accuracy of a run."""

    def next_step(
        algorithm: steps.Algorithm,
        base: steps.Model,
        family: steps.MaskFamily,
        cohort: Iterable[Contribution],
    ) -> tuple[steps.Model, steps.MaskFamily, steps.Coverage]:
        if trim:
            robust = partial(trimmed_mean, trim=trim)
            algorithm = replace(algorithm, aggregate=robust)
        return steps.next_step(algorithm, base, family, weigh(list(cohort)))

    with (
        tempfile.TemporaryDirectory() as name,
        patch.object(global_model, "next_step", next_step),
    ):
        folder = Path(name)
        settings = SimulationSettings(
            task="digits",
            folder=str(_unequal(folder, alpha, seed)),
            densities=[0.2],
            rounds=rounds,
            algorithm="erk",
            cohort=COHORT,
            seed=seed,
            evaluate_every=rounds,
            engine="masked",
            training=TrainingSettings(epochs=3, batch_size=16, rate=0.1, rate_end=0.03),
            warm_up=WarmUpSettings(devices=3),
            gate=GateSettings(clip=0, weight=0, influence=0),  # weighed here
        )
        records = simulate(folder / "run", settings, worker_count=1)
    return float(next(iter(records[-1].scores.values()))["accuracy"])


def _unequal(folder: Path, alpha: float, seed: int) -> Path:
    """Devices' folders, each with an eighth to all of what LDA dealt it."""
    names = [f"pi-{number}" for number in range(DEVICES)]
    data = prepare_folders(
        "digits", folder / "cache", folder / "data", names, alpha=alpha, seed=seed
    )
    kept = np.random.default_rng(seed).uniform(-3, 0, DEVICES)
    for name, power in zip(names, kept, strict=True):
        whole = load_partition(data[name])
        count = max(4, round(len(whole) * 2**power))
        save_partition(
            data[name], Examples(whole.inputs[:count], whole.targets[:count])
        )
    return folder / "data"


if __name__ == "__main__":
    main()
