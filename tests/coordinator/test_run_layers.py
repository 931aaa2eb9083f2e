"""A run masks the layers that it began with, also when newer kinds have come since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from coordinator.server.run_memory import maskable
from coordinator.simulation.checkpoints import SimulationMemory
from coordinator.simulation.record import RoundRecord
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks import load_task
from edge_sdk.tasks.layers import first_kinds, initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import Values, pack_values, unpack_values


class Rows(nn.Module):
    """A GRU over the rows of a picture, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(x.squeeze(1))[0][:, -1])
        return out


TASK: Task = replace(load_task("digits"), model=Rows, dense_layers=frozenset())
HEAD = ["head.weight"]
ALL = ["gru.weight_ih_l0", "gru.weight_hh_l0", *HEAD]


def record() -> RoundRecord:
    fields = {
        f.name: {} if "dict" in str(f.type) else [] if "list" in str(f.type) else 0
        for f in msgspec.structs.fields(RoundRecord)
        if f.required
    }
    return RoundRecord(**fields)


def names(memory: SimulationMemory) -> list[str]:
    return [layer.name for layer in maskable(TASK, Rows(), memory)]


def test_a_new_run_masks_every_kind(tmp_path: Path) -> None:
    assert names(SimulationMemory(tmp_path, [])) == ALL


def test_a_run_goes_on_with_the_layers_that_it_wrote_down(tmp_path: Path) -> None:
    memory = SimulationMemory(tmp_path, [record()])
    memory.put("layers", {"head.weight": 120})
    assert names(memory) == HEAD
    memory.put("layers", dict.fromkeys(ALL, 1))
    assert names(memory) == ALL


def test_a_run_of_the_first_version_in_its_warm_up_keeps_its_kinds(
    tmp_path: Path,
) -> None:
    memory = SimulationMemory(tmp_path, [record()])
    assert names(memory) == HEAD
    fresh = SimulationMemory(tmp_path / "fresh", [])
    fresh.folder.mkdir()
    maskable(TASK, Rows(), fresh, begin=True)
    again = SimulationMemory(fresh.folder, [record()])  # in this version's warm-up
    assert names(again) == ALL


def test_a_device_trains_the_layers_that_its_order_names() -> None:
    """The orders of both: an update has kept values of the named layers only."""
    rng = np.random.default_rng(2)
    inputs = rng.integers(0, 17, size=(24, 1, 8, 8)).astype(np.uint8)
    runner = TaskRunner(TASK, Examples(inputs, rng.integers(0, 10, 24)), "masked")
    model = Rows()
    for only, expected in ((first_kinds(model), HEAD), (None, ALL), (HEAD, HEAD)):
        layers = layers_of(model, only=only)
        counts = exact_counts(uniform(layers), layers, 0.4)
        mask = draw(layers, counts, 5)
        state = initial_state(TASK, 1)
        masked = {n: state.pop(n)[mask[n]] for n in mask}
        base = pack_values(Values(mask.digest, masked, state), mask)
        order = TaskOrder(
            id="1-a",
            round_no=1,
            density=0.4,
            base=manifest_of(base),
            mask=MaskRecipe(5, counts, mask.digest),
            rule=Frozen(),
            training=Training(epochs=1, batch_size=8, learning_rate=0.05),
            ttl_ms=1000,
            shard=0,
            codec="fp32",
        )
        update = runner.run(order, base, lambda: False)
        values = unpack_values(update.payload, mask)
        assert list(values.masked) == expected
        assert {n: v.size for n, v in values.masked.items()} == dict(mask.counts)
        assert all(np.abs(v).max() > 0 for v in values.masked.values())
        assert ("gru.weight_hh_l0" in values.dense) == (expected == HEAD)
    assert torch.is_grad_enabled()
