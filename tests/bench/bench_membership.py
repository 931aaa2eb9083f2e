"""Membership inference against the demo's model, with and without differential privacy.

    python tests/bench/bench_membership.py [--models 6] [--json FILE]

Of 600 digits each model trains on a random half, by `coordinator.simulate`: 60 devices
of 5 examples, DigitsNet, all devices in each of 20 rounds of 5 local epochs. Two
published attacks ask of each of the 600 whether it was trained on:

*Yeom et al.* (CSF 2018): by its loss alone; lower is a member.
*LiRA, offline of few* (Carlini et al., S&P 2022): by the likelihood ratio of its
logit-scaled confidence under normal distributions fitted, per example, over the other
models that had it and over those that had not (a shared variance, as there are few).

AUC .5 is guessing; advantage is the largest (true - false positive rate). Each row is
the mean over the models, each of them the target once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import coordinator
from coordinator.algorithms.privacy import noise_for
from edge_sdk.tasks.task import Examples, load_task

POOL, DEVICES, ROUNDS, DELTA, CLIP = 600, 60, 20, 1e-5, 0.5
SETTINGS = {  # name -> density, epsilon (0 for none)
    "dense": (1.0, 0.0),
    "d = .2": (0.2, 0.0),
    "d = .2, epsilon 8": (0.2, 8.0),
    "d = .2, epsilon 2": (0.2, 2.0),
}
Floats = NDArray[np.float64]


def trained(
    inputs: NDArray[Any], targets: NDArray[Any], at: NDArray[Any],
    density: float, epsilon: float, seed: int,
) -> tuple[Floats, Floats, float]:  # fmt: skip
    """Each pool example's loss and scaled confidence, and accuracy on the others."""
    more: dict[str, Any] = {}
    if epsilon:
        noise = noise_for(epsilon, ROUNDS, DELTA)
        more = {"privacy": {"noise_multiplier": noise, "clip": CLIP}}
    rest = slice(POOL, None)
    with tempfile.TemporaryDirectory() as folder:
        run = coordinator.simulate(
            load_task("digits"),
            devices=[Examples(inputs[i], targets[i]) for i in at.reshape(DEVICES, -1)],
            evaluation=Examples(inputs[rest], targets[rest]),
            algorithm="equal-counts-scaled", rounds=ROUNDS, densities=[density],
            cohort=DEVICES, seed=seed, folder=folder, engine="torch",
            evaluate_every=ROUNDS, codec={"up": "fp32", "down": "fp32"},
            training={"rate": 0.3, "rate_end": 0.1, "epochs": 5}, **more,
        )  # fmt: skip
        model = run.model(density)
        accuracy = run.records[-1].scores[f"{density:g}"]["accuracy"]
    prepare = load_task("digits").prepare
    assert prepare is not None
    x = torch.from_numpy(prepare(inputs[:POOL]))
    with torch.no_grad():
        log_p = torch.log_softmax(model(x).double(), 1)
    own = log_p[torch.arange(POOL), torch.from_numpy(targets[:POOL])].numpy()
    scaled = own - np.log(np.maximum(-np.expm1(own), 1e-12))
    return -own, scaled, float(accuracy)


def scores_of(score: Floats, member: NDArray[np.bool_]) -> dict[str, float]:
    """AUC, advantage, and true positives at 5 % false ones; high scores say member."""
    cuts = np.unique(score)[::-1]
    true = np.array([0, *((score[member] >= c).mean() for c in cuts)])
    false = np.array([0, *((score[~member] >= c).mean() for c in cuts)])
    return {
        "auc": float(np.trapezoid(true, false)),
        "advantage": float((true - false).max()),
        "tpr_at_5": float(true[false <= 0.05].max()),
    }


def lira(confidence: Floats, member: NDArray[np.bool_], target: int) -> Floats:
    """The log likelihood ratio of each example under the models beside the target."""
    others = [i for i in range(len(confidence)) if i != target]
    seen, had = confidence[others], member[others]
    inside = np.where(had, seen, np.nan)
    outside = np.where(had, np.nan, seen)
    spread_in, spread_out = (max(np.nanstd(a), 1e-6) for a in (inside, outside))
    overall = np.nanmean(inside), np.nanmean(outside)
    with warnings.catch_warnings():  # an example that all others had, or none
        warnings.simplefilter("ignore", RuntimeWarning)
        middle_in = np.nan_to_num(np.nanmean(inside, 0), nan=overall[0])
        middle_out = np.nan_to_num(np.nanmean(outside, 0), nan=overall[1])
    own = confidence[target]
    log_in = -(((own - middle_in) / spread_in) ** 2) / 2 - np.log(spread_in)
    log_out = -(((own - middle_out) / spread_out) ** 2) / 2 - np.log(spread_out)
    return np.asarray(log_in - log_out)


def attacked(density: float, epsilon: float, models: int) -> dict[str, Any]:
    inputs, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs = inputs[order].reshape(-1, 1, 8, 8).astype(np.uint8)
    targets = targets[order].astype(np.int64)
    member = np.zeros((models, POOL), bool)
    losses, confidence, accuracies = [], [], []
    for i in range(models):
        at = np.random.default_rng([1, i]).permutation(POOL)[: POOL // 2]
        member[i, at] = True
        found = trained(inputs, targets, at, density, epsilon, i + 1)
        for kept, one in zip((losses, confidence, accuracies), found, strict=True):
            kept.append(one)
    told: dict[str, Any] = {"accuracy": float(np.mean(accuracies))}
    seen = np.array(confidence)
    for attack in ("yeom", "lira"):
        rows = [
            scores_of(
                -losses[i] if attack == "yeom" else lira(seen, member, i),
                member[i],
            )
            for i in range(models)
        ]
        told[attack] = {
            k: [float(f([r[k] for r in rows])) for f in (np.mean, np.std)]
            for k in rows[0]
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"models": given.models}
    for name, (density, epsilon) in SETTINGS.items():
        began = time.perf_counter()
        told[name] = attacked(density, epsilon, given.models)
        print(
            name,
            json.dumps(told[name]),
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
        if given.json is not None:
            given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
