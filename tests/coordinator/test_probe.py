"""A probe of the round's model by one thread, or by all where one takes long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Model
from coordinator.rounds.round_step import start_model, warm_up_family
from coordinator.server import evaluation
from coordinator.server.evaluation import Probe
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task, load_task

THREADS = 3


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def probed() -> tuple[Probe, Model, list[int]]:
    """A probe, a model, and how many threads each of its losses had."""
    task, had = load_task("digits"), list[int]()

    def loss(out: Any, targets: torch.Tensor) -> torch.Tensor:
        had.append(torch.get_num_threads())
        return torch.nn.functional.cross_entropy(out, targets)

    counted: Task = replace(task, loss=loss)
    layers = layers_of(task.model(), task.dense_layers)
    family = warm_up_family(load_algorithm("erk"), layers, [0.2], 1)
    inputs = np.zeros((8, 1, 8, 8), np.uint8)
    examples = Examples(inputs, np.arange(8, dtype=np.int64))
    return Probe(counted, examples), start_model(task, 1, family), had


def test_a_short_probe_has_one_thread_and_leaves_the_others_as_they_were() -> None:
    probe, model, had = probed()
    first = probe.loss(model)
    assert first is not None
    assert first == probe.loss(model)
    assert had == [1, 1]
    assert torch.get_num_threads() == THREADS


def test_a_probe_that_took_one_thread_long_has_all_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "SHARED_S", 0.0)
    probe, model, had = probed()
    for _ in range(3):
        assert probe.loss(model) is not None
    assert had == [1, THREADS, THREADS]
    assert torch.get_num_threads() == THREADS
