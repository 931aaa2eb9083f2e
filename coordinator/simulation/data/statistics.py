"""Statistics of a simulated fleet's examples, by the rules of a federation's."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from coordinator.rounds.data_statistics.joined import STATISTICS, joined
from coordinator.rounds.data_statistics.question import (
    query_of,
    wants_statistics,
)
from coordinator.rounds.tasks import held_out
from coordinator.settings import RunSettings
from coordinator.simulation.checkpoints import SimulationMemory
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Task
from edge_sdk.training.holdout.describe import describe, summary_of
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.wire.evaluation import DataSummary

__all__ = ["gather"]

log = logging.getLogger(__name__)


def gather(
    settings: RunSettings,
    task: Task,
    folders: Mapping[str, Path],
    left_out: Collection[str],
    memory: SimulationMemory,
) -> None:
    """Have the statistics of all devices in a simulation's plan, if it wants any.

    Args:
        settings: The run.
        task: Reads and prepares examples.
        folders: Device -> its examples.
        left_out: Devices that cannot train.
        memory: The simulation's.

    Raises:
        SettingsError: If the run is private.
    """
    if not wants_statistics(settings, task):
        return
    query, by = query_of(settings, task), held_out(settings)
    answers: dict[str, DataSummary] = {}
    failed: dict[str, str] = {}
    for device, folder in folders.items():
        if device in left_out:
            continue
        given = DividedExamples(
            task.read_train(folder, known=True), task.read_holdout(folder)
        )
        try:
            answers[device] = summary_of(describe(task, given.train(by), query))
        except DataError as error:
            failed[device] = str(error)
    told = {device: answer.examples for device, answer in answers.items()}
    found = joined(
        *(answers, query, tuple(task.input_shape), told), weight=settings.gate.weight
    )
    for device, why in sorted({**failed, **found.refused}.items()):
        log.warning("the statistics of %s do not count: %s", device, why)
    refused = {**failed, **found.refused}
    memory.put(STATISTICS, {**found.plain(), "refused": refused})
