"""A simulated device that cannot train is out, by name; the others' rounds go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.datasets.partition import save_partition
from edge_sdk.tasks import Examples

TASK = """from functools import partial
from torch import nn
from torch.nn import functional as F
from edge_sdk.tasks import Task
from edge_sdk.datasets.partition import load_partition

def model():
    norm = nn.BatchNorm1d(64)
    return nn.Sequential(nn.Linear(16, 64), norm, nn.ReLU(), nn.Linear(64, 4))

task = Task(name="bn", model=model, loss=F.cross_entropy, train_data=load_partition,
            eval_data=partial(load_partition, part="eval"), input_shape=(16,))
"""


def some(count: int) -> Examples:
    rng = np.random.default_rng(count)
    return Examples(
        rng.normal(size=(count, 16)).astype(np.float32), rng.integers(0, 4, count)
    )


@pytest.mark.parametrize("broker", ["", "mqtt"])
def test_one_example_under_batch_norm_ends_no_run(tmp_path: Path, broker: str) -> None:
    """The warm-up draws it first; then it is never asked again."""
    (tmp_path / "lone.py").write_text(TASK)
    for name, count in (("full", 60), ("odd", 33), ("lone", 1)):
        save_partition(tmp_path / "data" / name, some(count))
    save_partition(tmp_path / "data/evaluation", some(40), part="eval")
    (tmp_path / "sim.toml").write_text(
        'task = "lone:task"\nfolder = "data"\ndensities = [0.4]\nrounds = 4\n'
        "cohort = 3\nseed = 1\n[warm_up]\ndevices = 2\nepochs = 1\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coordinator.cli", "simulate", "run"),
            *("--settings", "sim.toml", "--workers", "1"),
            *(("--transport", broker) if broker else ()),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [r["round"] for r in rounds] == [0, 1, 2, 3, 4]
    assert sum("lone" in r.get("unable", {}) for r in rounds) == 1
    assert all(r["accepted"] == ["full", "odd"] for r in rounds if r["round"] > 1)
    assert "lone cannot train and is not asked again" in done.stderr
    assert "is batch norm, which cannot train on one example" in done.stderr
