"""Personal heads beside one shared model, judged on each device's own examples.

    python tests/bench/bench_personal.py watch /path/of/seglearn.whl
    python tests/bench/bench_personal.py mnist /folder/of/idx/files

`watch` has one device per subject, `mnist` twenty of a Dirichlet partition at alpha .1.
Of each device's examples the last quarter of each class is held out. A device is judged
by the last model: the shared one as it is, the personal one with the device's own head.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coordinator import Run, simulate
from edge_sdk.datasets.partition import lda
from edge_sdk.datasets.watch import read_watch
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.task import Examples, Task, load_task

DENSITY = 0.2
TRAINING = {
    "watch": {
        "rate": 0.1,
        "rate_end": 0.01,
        "batch_size": 16,
        "momentum": 0.9,
        "epochs": 2,
    },
    "mnist": {"rate": 0.1, "rate_end": 0.01, "batch_size": 16, "momentum": 0.5},
}
HEAD = {"watch": ["fc1", "fc2"], "mnist": ["fc2"]}


def devices_of(name: str, path: Path, seed: int) -> list[Examples]:
    """Each device's examples."""
    if name == "watch":
        found = read_watch(path)
        subjects = np.unique(found.groups)
        return [found.examples.take(np.nonzero(found.groups == s)[0]) for s in subjects]
    images, labels = (
        np.frombuffer((path / f"train-{kind}-ubyte").read_bytes(), np.uint8)
        for kind in ("images-idx3", "labels-idx1")
    )
    rng = np.random.default_rng(seed)
    some = rng.permutation(60_000)[:6000]
    whole = Examples(
        images[16:].reshape(-1, 1, 28, 28)[some], labels[8:].astype(np.int64)[some]
    )
    parts = lda(whole.targets, 20, 0.1, rng)
    return [whole.take(part) for part in parts]


def split(examples: Examples) -> tuple[Examples, Examples]:
    """Training examples, and the last quarter of each class."""
    train: list[NDArray[np.int64]] = []
    held: list[NDArray[np.int64]] = []
    for label in np.unique(examples.targets):
        own = np.nonzero(examples.targets == label)[0]
        cut = len(own) - len(own) // 4
        train.append(own[:cut])
        held.append(own[cut:])
    return examples.take(np.concatenate(train)), examples.take(np.concatenate(held))


def accuracy(run: Run, task: Task, examples: Examples, device: str) -> float:
    """Of the run's last model with a device's own entries, where it has some."""
    model = run.model(DENSITY, device=device)
    inputs, targets = tensors(task, examples, np.arange(len(examples)))
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


def main() -> None:
    """Print a line per seed and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(TRAINING))
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--algorithm", default="erk")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task(given.name)
    for seed in range(1, given.seeds + 1):
        parts = [split(e) for e in devices_of(given.name, given.path, seed)]
        parts = [(a, b) for a, b in parts if len(b) >= 4]
        for kind, personal in (("shared", []), ("personal", HEAD[given.name])):
            with tempfile.TemporaryDirectory() as folder:
                run = simulate(
                    task=given.name,
                    devices=[train for train, _ in parts],
                    evaluation=parts[0][1],
                    algorithm=given.algorithm,
                    rounds=given.rounds,
                    densities=[DENSITY],
                    seed=seed,
                    training=TRAINING[given.name],
                    cohort=len(parts),
                    folder=Path(folder) / "run",
                    workers=0,
                    evaluate_every=given.rounds,
                    personal=personal,
                )
                names = sorted({d for r in run.records for d in r.accepted})
                each = []
                for (_, held), device in zip(parts, names, strict=True):
                    each.append(accuracy(run, task, held, device))
                last = run.records[-1]
                worst = np.sort(each)[: max(1, round(len(each) / 10))]
                moved = (last.total_up + last.total_down) / 1e6
                print(
                    f"seed {seed} {kind}: mean {100 * np.mean(each):.1f}, worst tenth "
                    f"{100 * np.mean(worst):.1f}, {moved:.2f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
