"""The last program that a device was sent, kept in its state folder.

It says before the next order comes what a training step will take, and whether the
examples fit the model; another run's model may be another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import CheckpointError, DataError, EdgeError, EngineError
from edge_sdk.kernels.library import kernels
from edge_sdk.program.ceiling import MemoryCeiling, planned_step
from edge_sdk.program.file import unpack_program
from edge_sdk.program.open import program_layers
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.program_engine.example_check import ExampleCheck

__all__ = ["check_by_kept", "keep_program", "kept_program", "stated_plans"]

log = logging.getLogger(__name__)


def keep_program(state: Path, program: bytes) -> None:
    """Writes the program into the state folder if another one lies there.

    A full disk costs the statement, not the training.
    """
    try:
        if program and kept_program(state) != program:
            replace_file(_path(state), program)
    except (CheckpointError, OSError) as error:
        log.warning("the training program is not kept: %s", error)


def kept_program(state: Path) -> bytes:
    """The program of the last order that sent one; empty before."""
    try:
        return _path(state).read_bytes()
    except OSError:
        return b""


def check_by_kept(state: Path, task: Task, examples: Examples) -> None:
    """Refuses examples that the last order's program does not take.

    Without a program, or with a damaged one, nothing is known.

    Raises:
        DataError: Says which example, and why.
    """
    file = kept_program(state)
    try:
        if file:
            ExampleCheck(task)(examples, file)
    except DataError as error:
        raise DataError(
            f"by the model of the last order, {error}", remedy=error.help
        ) from error
    except EngineError as error:
        log.debug("the kept program: %s", error)


def stated_plans(
    state: Path,
    task: Task,
    densities: Sequence[float],
    ceiling: MemoryCeiling | None,
    *,
    ghost_norm: bool = False,
    half: bool = False,
    threads: int = 1,
) -> dict[float, str]:
    """Density -> the plan of a step in words, or why there is none.

    Args:
        state: The device's state folder; without a program in it nothing is stated.
        task: Gives the batch and the layers that stay dense.
        densities: Of masks that are drawn for it.
        ceiling: What the process may hold; None for no bound.
        ghost_norm: As the settings have it.
        half: Whether activations may wait in bfloat16.
        threads: Of a step.

    Raises:
        EngineError: If the file is damaged, or there are no kernels.
    """
    file = kept_program(state)
    if not file:
        return {}
    program, vector_lanes = unpack_program(file), kernels().vector_bytes // 4
    layers = [x for x in program_layers(program) if x.name not in task.dense_layers]

    def stated(density: float) -> str:
        try:
            counts = exact_counts(uniform(layers), layers, density)
            return planned_step(
                *(program, draw(layers, counts, 1), ceiling),
                samples=task.batch_size,
                vector_lanes=vector_lanes,
                ghost_norm=ghost_norm,
                half=half,
                threads=threads,
            ).told()
        except EdgeError as error:
            return f"{error}. {error.help}"

    return {density: stated(density) for density in densities}


def _path(state: Path) -> Path:
    return state / "program.bin"
