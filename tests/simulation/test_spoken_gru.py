"""The shipped GRU learns in a simulated federation, its recurrent weights masked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import coordinator
from edge_sdk import Examples
from edge_sdk.tasks import load_task
from edge_sdk.tasks.layers import layers_of


def spectrograms(count: int, seed: int) -> Examples:
    """Each digit has bands of its own that are loud."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, 10, count)
    loud = np.eye(10).repeat(4, axis=1)[digits] * 8
    noise = rng.normal(0, 2, (count, 1, 61, 40))
    return Examples((loud[:, None, None] + noise).astype(np.float32), digits)


@pytest.mark.slow
def test_the_shipped_gru_learns_in_a_fleet_of_two_densities(tmp_path: Path) -> None:
    task = load_task("spoken-gru")
    run = coordinator.simulate(
        task, devices=[spectrograms(48, seed) for seed in range(3)],
        evaluation=spectrograms(60, 9), rounds=3, densities=[0.1, 0.3],
        folder=tmp_path / "run", workers=1,
    )  # fmt: skip
    sizes = {s.name: s.numel for s in layers_of(task.model(), task.dense_layers)}
    assert set(sizes) == {"gru.weight_ih_l0", "gru.weight_hh_l0"}
    for density in (0.1, 0.3):
        model = run.model(density)
        kept = sum(int((model.get_parameter(n) != 0).sum()) for n in sizes)
        assert kept <= density * sum(sizes.values()) + 1
        assert kept > 0.9 * density * sum(sizes.values())
        examples = spectrograms(60, 9)
        with torch.no_grad():
            logits = model(task.prepare(torch.from_numpy(examples.inputs)))
        assert (logits.argmax(1).numpy() == examples.targets).mean() > 0.3
