"""One check of torch's engine on a GPU, in less than ten minutes.

Run from the root of the project, on a machine with a GPU:
    python tests/bench/cuda_check.py [--seconds 540] [--device cuda] [--json FILE]

1. Correctness: three steps of SGD with momentum on the GPU beside the processor, for
   models of the zoo under masks of density .1; the relative error of the update.
2. Step times, batch 32, medians: the processor's dense-masked engine, the GPU's, and
   the GPU's with autocast; the most memory of the GPU's allocator.
3. A FLASH run on CIFAR-10, ResNet20, as many rounds as fit into the time that is left.
   Without the data set (`--cifar FOLDER` with `train.npz` and `eval.npz`) it is done on
   random images, which proves no more than that rounds run; the table says which.

`--device cpu` runs the whole of it without a GPU, to check the check.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from coordinator import simulate
from edge_sdk.datasets.partition import lda, load_partition
from edge_sdk.json_text import to_json
from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.training.local import train
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.training.torch_engine.placement import Placement, placement_of
from edge_sdk.wire.messages import Training
from edge_sdk.zoo import (
    FemnistCnn,
    KeywordNet,
    MobileNetV2Cifar,
    ResNet18Cifar,
    ResNet20,
    VitTiny,
)

DENSITY, BATCH = 0.1, 32
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "femnist": (FemnistCnn, (1, 28, 28), 62),
    "keywords": (KeywordNet, (1, 61, 40), 10),
    "resnet20": (ResNet20, (3, 32, 32), 10),
    "resnet18": (ResNet18Cifar, (3, 32, 32), 10),
    "mobilenet": (MobileNetV2Cifar, (3, 32, 32), 10),
    "vit": (VitTiny, (3, 32, 32), 10),
}


def model_of(name: str, where: Placement | None) -> MaskedModel:
    """The model under random patterns, first and last weights dense."""
    torch.manual_seed(0)
    model, rng = MODELS[name][0](), np.random.default_rng(0)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.dim() > 1}
    names = list(shapes)[1:-1]
    mask = Mask({n: rng.random(shapes[n]) < DENSITY for n in names})
    return masked_model(model, mask, placement=where)


def task_of(name: str) -> tuple[Task, Examples]:
    """A task of random examples."""
    make, shape, classes = MODELS[name]
    rng = np.random.default_rng(1)
    own = Examples(
        rng.standard_normal((3 * BATCH, *shape)).astype(np.float32),
        rng.integers(0, classes, 3 * BATCH),
    )
    task = Task(
        name=name, model=make, loss=F.cross_entropy, input_shape=shape,
        train_data=lambda _: own,
    )  # fmt: skip
    return task, own


def update(name: str, where: Placement | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What three steps change."""
    model, (task, own) = model_of(name, where), task_of(name)
    before = {**model.values(), **model.dense()}
    train(model, task, own, Training(1, BATCH, 0.01, 0.9, seed=1))
    after = {**model.values(), **model.dense()}
    moved = [
        after[n] - before[n] for n in after if after[n].dtype == np.dtype(np.float32)
    ]
    return np.concatenate([one.ravel() for one in moved])


def step_ms(name: str, where: Placement | None, seconds: float) -> float:
    """Median of a step: forward, backward, SGD."""
    model, (task, own) = model_of(name, where), task_of(name)
    session = model.session(task, own, Training(1, BATCH, 0.01, 0.9, seed=1))
    index, times = np.arange(BATCH), []
    until = time.monotonic() + seconds
    while len(times) < 4 or (time.monotonic() < until and len(times) < 200):
        began = time.perf_counter()
        session.backward(index)
        session.step()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[2:])


def checked(name: str, where: Placement, soft: Placement | None) -> dict[str, Any]:
    """One row of the table."""
    reference, found = update(name, None), update(name, where)
    error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    where.reset_peak()
    row = {
        "model": name,
        "error": error,
        "cpu_ms": step_ms(name, None, 4.0),
        "gpu_ms": step_ms(name, where, 4.0),
        "gpu_peak_mib": where.peak_mib(),
        "autocast_ms": step_ms(name, soft, 4.0) if soft else None,
    }
    told = f"{row['autocast_ms']:8.2f}" if soft else "       -"
    print(
        f"{name:10} {error:9.1e} {row['cpu_ms']:8.2f} {row['gpu_ms']:8.2f} {told} "
        f"{row['gpu_peak_mib']:9.0f}",
        flush=True,
    )
    return row


def rounds_of_cifar(data: Path | None, seconds: float) -> dict[str, Any]:
    """FLASH on CIFAR-10: one round is timed, then as many are run as still fit."""
    if data is None:
        rng = np.random.default_rng(2)
        shape = (3, 32, 32)
        pools = [
            Examples(
                rng.integers(0, 256, (n, *shape)).astype(np.uint8),
                rng.integers(0, 10, n),
            )
            for n in (2000, 500)
        ]
    else:
        pools = [load_partition(data, part=part) for part in ("train", "eval")]

    own = lda(pools[0].targets, 10, 1.0, np.random.default_rng(1))
    task = replace(load_task("cifar10"), name="cifar10-check", model=ResNet20)

    def run(rounds: int) -> tuple[float, Any]:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            found = simulate(
                task, devices=[pools[0].take(index) for index in own],
                evaluation=pools[1], cohort=4, rounds=rounds, densities=[DENSITY],
                algorithm="flash", engine="torch", folder=Path(folder) / "run",
                training={"max_steps": 60}, warm_up={"max_steps": 60},
            )  # fmt: skip
            scores = [r.scores for r in found.records if r.scores][-1]
            return time.monotonic() - began, scores

    first, _ = run(1)
    each = max(first / 2, 1.0)  # a warm-up and a round
    rounds = max(2, min(200, int((seconds - first) / each) - 1))
    took, scores = run(rounds)
    return {
        "rounds": rounds, "seconds": took,
        "data": "random" if data is None else str(data), "scores": scores,
    }  # fmt: skip


def main() -> int:
    """Prints a table; writes JSON where asked; 1 if an update is off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    where = placement_of(options.device) or Placement(torch.device("cpu"))
    gpu = where.device.type == "cuda"
    bf16 = not gpu or torch.cuda.is_bf16_supported()
    soft = Placement(where.device, torch.bfloat16) if bf16 else None
    facts = {
        "device": where.told(),
        "shares_ram": where.shares_ram(),
        "torch": torch.__version__,
        "on": dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
    }
    print(f"{facts['device']}, torch {facts['torch']}, {facts['on']}")
    print("model          error   cpu ms   gpu ms autocast   gpu MiB")
    rows = [checked(name, where, soft) for name in options.models.split(",")]
    left = options.seconds - (time.monotonic() - began)
    run = rounds_of_cifar(options.cifar, left) if left > 30 else {}
    print(f"FLASH, CIFAR-10: {run or 'no time left'}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(to_json({**facts, "rows": rows, "run": run}, indent=1))
    return int(any(row["error"] > 1e-3 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
