"""The engine that all workers of a simulation train with, decided once per run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from coordinator.simulation.settings import AskedEngine, todays_name
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import EdgeError, EngineError, two_sentences
from edge_sdk.kernels.library import available, kernels
from edge_sdk.program.file import unpack_program
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.training.torch_engine.placement import placement_of

__all__ = ["PROGRAM_FILE", "Engine", "engine_for"]

log = logging.getLogger(__name__)

PROGRAM_FILE = "program.bin"  # in the run's folder, as in a federation's
_SHOWN = 8  # examples that the model is captured on, and compared with torch


@dataclass(frozen=True)
class Engine:
    """Engine of a run, with what its workers need to use it.

    Attributes:
        name: ``program``, or ``torch`` for torch's dense kernels under masks.
        program: The training program's bytes; empty for ``torch``.
    """

    name: Literal["program", "torch"]
    program: bytes = b""


def engine_for(
    task: Task, wanted: AskedEngine, examples: Examples, folder: Path
) -> Engine:
    """The engine that a simulation uses throughout.

    There is no race: its outcome would depend on the machine's mood, and equal settings
    must give equal bytes. A program takes the same steps as torch up to rounding, which
    is checked when it is compiled. The run's folder keeps it and goes on with it.

    Args:
        task: What is trained.
        wanted: ``auto`` takes torch where there is a GPU, else the program if the
            model has one.
        examples: The model is captured on a few of them.
        folder: The run's.

    Raises:
        EngineError: If the program is asked for and there is none.
    """
    name = todays_name(wanted)
    where = placement_of("auto")
    if name == "torch" or (name == "auto" and where is not None):
        why = "as the settings say" if name == "torch" else "as there is a GPU"
        on = "the processor" if where is None else where.told()
        log.info("engine torch: dense kernels under masks on %s, %s", on, why)
        return Engine("torch")
    try:
        kernels()
        found = _kept(folder / PROGRAM_FILE) or _compiled(task, examples, folder)
    except EdgeError as error:
        if name == "program":
            raise
        why = two_sentences(error, error.help)
        log.info("engine torch, as there is no training program: %s", why)
        return Engine("torch")
    log.info("engine program: the model's training program, kernels %s", available())
    return Engine("program", found)


def _kept(path: Path) -> bytes:
    """The program that the run began with; empty without one that is whole."""
    try:
        found = path.read_bytes()
        unpack_program(found)
    except FileNotFoundError:
        return b""
    except (OSError, EngineError) as error:
        log.warning("%s is made again: %s", path, error)
        return b""
    return found


def _compiled(task: Task, examples: Examples, folder: Path) -> bytes:
    from edge_sdk.program.capture import compiled  # noqa: PLC0415 - torch's compiler

    few = np.arange(_SHOWN) % len(examples)
    threads = torch.get_num_threads()
    try:
        with (
            torch.random.fork_rng(devices=[]),
            blamed(task.name, "compiling its model"),
        ):
            batch = tensors(task, examples, few)
            found = compiled(make_model(task, 0), task.loss, *batch)
    finally:
        torch.set_num_threads(threads)
    if not found.file:
        raise EngineError(
            found.reason, remedy='Simulate with engine = "torch", or leave it at auto.'
        )
    replace_file(folder / PROGRAM_FILE, found.file)
    return found.file
