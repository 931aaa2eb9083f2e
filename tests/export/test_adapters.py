"""An exported model is its start model with the adapters folded in, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from coordinator.settings import RunSettings
from edge_sdk.checkpoint import (
    Checkpoint,
    checkpoint_bytes,
    load_checkpoint,
    save_checkpoint,
)
from edge_sdk.errors import ExportError
from edge_sdk.infer import Bundle
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.parts.adapters import Adapters
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Task, load_task
from export.bundle import make_bundle
from export.rebuild import from_checkpoint


def trained(task: Task, adapters: Adapters, **more: Any) -> tuple[Task, Checkpoint]:
    """A checkpoint as a run leaves it, its adapters far from 0."""
    settings = RunSettings(
        federation="adapters", task="digits", evaluation=None, densities=[0.4],
        rounds=1, adapters=adapters, **more,
    )  # fmt: skip
    run = run_task(task, settings)
    layers = layers_of(make_model(run, 0), run.dense_layers)
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.4), 1)
    rng, state = np.random.default_rng(3), initial_state(run, 1)
    state |= {n: rng.normal(0, 0.3, state[n].shape).astype(np.float32) for n in mask}
    values = {n: state.pop(n)[mask[n]] for n in mask}
    ranks = dict.fromkeys(adapters.on, adapters.rank)
    found = Checkpoint(
        "digits", 3, layers, mask, values, state, {},
        personal=tuple(run.personal), adapters=ranks,
    )  # fmt: skip
    return run, found


@pytest.mark.parametrize("personal", [(), ("fc2",)], ids=["", "personal"])
def test_the_board_computes_what_the_start_model_with_adapters_does(
    tmp_path: Path, personal: tuple[str, ...]
) -> None:
    task = load_task("digits")
    run, checkpoint = trained(
        task, Adapters(rank=2, on=("conv2", "fc1")), personal=list(personal)
    )
    path = tmp_path / "density-0.4.safetensors"
    save_checkpoint(path, checkpoint)
    assert checkpoint_bytes(load_checkpoint(path)) == path.read_bytes()
    model = make_model(run, 0)
    state = {n: torch.from_numpy(np.array(a)) for n, a in checkpoint.state().items()}
    model.load_state_dict(state)
    batch = np.random.default_rng(2).normal(size=(4, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(batch)).numpy()
    out = tmp_path / "bundle"
    make_bundle(path, out, formats=("native",), seconds=0)
    live = Bundle(out)
    np.testing.assert_allclose(live.run(batch), expected, rtol=1e-4, atol=1e-4)
    source = from_checkpoint(load_checkpoint(path), task=task)
    assert set(source.model.state_dict()) == set(task.model().state_dict())
    assert source.notes == ("adapters are folded into 2 layers, which are dense",)
    assert source.mask["fc1.weight"].all()


class UsesWeights(nn.Module):
    """Its code reads a layer's weight past the layer, so an adapter does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(linear(inputs, self.first.weight))  # type: ignore[no-any-return]


def test_adapters_that_the_model_passes_by_are_refused_on_export() -> None:
    task = Task(
        name="by", model=UsesWeights, loss=nn.functional.cross_entropy, input_shape=(8,)
    )
    _, checkpoint = trained(task, Adapters(rank=2, on=("first",), train=("last",)))
    with pytest.raises(ExportError, match=r"folded into first\.weight"):
        from_checkpoint(checkpoint, task=task)
