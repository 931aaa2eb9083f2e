"""The work that a round asks of a device."""

from __future__ import annotations

from dataclasses import replace

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.passes import passes_of
from coordinator.ledger import Ledger
from coordinator.settings import RunSettings
from device_profiles import Workload
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.task import Examples, Task

__all__ = ["round_workload"]


def round_workload(
    settings: RunSettings,
    task: Task,
    algorithm: Algorithm,
    batch: int,
    given: Examples | None,
    ledger: Ledger,
) -> Workload:
    """One device's part of a round; its own examples are put in when it says hello.

    What a dense device would reckon and send is kept in the ledger, for people.

    Args:
        settings: The run.
        task: Its task.
        algorithm: Its algorithm; it says which networks a batch goes through.
        batch: Examples per step.
        given: Examples of the shape that devices have; None makes some up.
        ledger: Where a dense device's work is noted, once.
    """
    training = settings.training
    load = workload_of(
        task,
        examples=1,
        epochs=training.epochs,
        batch=batch,
        given=given,
        only=ledger.get("layers"),
    )
    if ledger.get("workload") is None:
        dense = [layer.macs for layer in load.layers if not layer.masked]
        ledger.put(
            "workload",
            {
                "macs": {layer.name: layer.macs for layer in load.masked_layers},
                "dense_macs": sum(dense),
                "dense_numel": load.dense_numel,
            },
        )
    return replace(
        load,
        max_steps=training.max_steps,
        batch_passes=passes_of(algorithm, settings.densities),
    )
