"""Choice of the engine that trains a model on a device with torch: a short race."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import kernels, unavailable_reason
from edge_sdk.sparse import Mask
from edge_sdk.torch_modules.copying import copy_model
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.training.memory_limit import EngineName, StepMemory
from edge_sdk.training.torch_engine.placement import Placement
from edge_sdk.training.torch_engine.program import (
    Batch,
    Loss,
    ProgramOnTorch,
    program_model,
)

__all__ = ["Race", "choose_engine"]

log = logging.getLogger(__name__)
Clock = Callable[[], float]
Capture = Callable[[], bytes]  # raises EngineError
_MARGIN = 0.95  # a change of engine must gain this much, or noise would decide
_STEPS = 3


@dataclass(frozen=True, eq=False)
class Race:
    """Conditions under which ``auto`` compares the engines.

    Attributes:
        batch: Inputs and targets of the steps that are timed.
        samples: Of a training step, for which memory is planned; 0 for the batch's.
        steps: Steps of an epoch: what a step saves counts so often in each.
        worth_s: A model of which no program was sent is captured here if an epoch of
            dense-masked steps takes longer. Capturing takes some ten seconds, and as
            many as sixty on a board.
        placement: Where the dense-masked engine computes; None for the processor.
        clock: Seconds from any origin.
    """

    batch: Batch
    samples: int = 0
    steps: int = 1
    worth_s: float = 60.0
    placement: Placement | None = None
    clock: Clock = time.perf_counter


def choose_engine(
    model: nn.Module,
    mask: Mask,
    loss: Loss,
    race: Race,
    capture: Capture,
    *,
    engine: EngineName = "auto",
    program: bytes = b"",
    memory: StepMemory = StepMemory(),  # noqa: B008 - frozen
) -> TrainingModel:
    """The model under its mask on the engine asked for, or on the faster one.

    ``auto`` races the program against the dense-masked engine. Without a program at
    hand it captures one where that pays (`Race.worth_s`), and trains dense-masked
    elsewhere. A model of which there is no program, or a machine without kernels,
    gets the dense-masked engine, and one log line says why. The result's `reason` tells
    what was chosen and why.

    Args:
        model: Left alone; the engine trains a copy.
        mask: Patterns by weight name.
        loss: (predictions, targets) -> scalar.
        race: How the engines are compared.
        capture: Gives the model's program where none is at hand.
        engine: "auto", "program" or "masked".
        program: The program's bytes, where somebody has compiled it.
        memory: What the device's owner says of a program's.

    Raises:
        EngineError: If the mask does not fit the model.
    """
    missing = "" if engine == "masked" else _unavailable()
    if missing:
        log.warning("training runs dense-masked: %s", missing)
    if engine == "masked" or missing:
        reason = f"{engine}: {missing}" if missing else "engine = masked"
        return _masked(model, mask, reason, race)

    def opened() -> ProgramOnTorch | None:
        """None where there is no program, with a line that says why.

        One that was sent and does not fit is no reason to capture another.
        """
        whose = "that was sent here" if program else "that was captured here"
        try:
            file, before = program or capture(), memory.read()
            own = program_model(
                *(model, mask, file, race.batch[0]),
                reason=f"{engine}: a program {whose}",
            )
            memory.hold(own, before, race.samples or len(race.batch[0]))
        except EngineError as error:
            log.warning("no program here, training runs dense-masked: %s", error)
            return None
        return own

    if engine == "program":
        return opened() or _masked(
            model, mask, "program: there is none of this model", race
        )
    with torch.random.fork_rng(devices=[]):  # a race changes no random numbers
        why = "auto: no program was sent, and epochs are short"
        masked = _masked(model, mask, why, race)
        masked_s = _masked_seconds(masked, loss, race)
        if not program and masked_s * race.steps < race.worth_s:
            return _masked(model, mask, why, race)
        own = opened()
        if own is None:
            why = "auto: there is no program of this model"
            return _masked(model, mask, why, race)
        return _faster(own, _masked(model, mask, "", race), masked_s, race)


def _faster(
    own: ProgramOnTorch, masked: MaskedModel, masked_s: float, race: Race
) -> TrainingModel:
    own_s = _program_seconds(own, race)
    figures = (
        f"{own_s * 1e3:.2f} ms a step against {masked_s * 1e3:.2f} ms dense-masked "
        f"(batch {len(race.batch[0])}, {own.threads} threads)"
    )
    if masked_s < _MARGIN * own_s:
        there = race.placement
        on = "" if there is None else f" on {there.told()}"
        masked.reason = f"auto: dense-masked{on} is faster, the program takes {figures}"
        return masked
    own.reason = f"{own.reason}: {figures}"
    return own


def _masked(model: nn.Module, mask: Mask, reason: str, race: Race) -> MaskedModel:
    where = race.placement
    told = reason if where is None else f"{reason}, dense kernels on {where.told()}"
    return masked_model(copy_model(model), mask, reason=told, placement=where)


def _program_seconds(model: ProgramOnTorch, race: Race) -> float:
    """The fastest of a few steps, after one that warms caches up."""
    inputs, targets = (t.numpy() for t in race.batch)
    state = model.values(), model.dense()
    found = _fastest(lambda: model.backward(inputs, targets), race.clock)
    model.load(*state)  # norm statistics have moved
    return found


def _masked_seconds(model: MaskedModel, loss: Loss, race: Race) -> float:
    inputs, targets = race.batch
    model.train()

    def step() -> None:
        loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            parameter.grad = None

    return _fastest(step, race.clock)


def _fastest(step: Callable[[], object], clock: Clock) -> float:
    times = []
    for _ in range(_STEPS + 1):
        start = clock()
        step()
        times.append(clock() - start)
    return min(times[1:])


def _unavailable() -> str:
    """Try to build the kernels; the reason why there are none, or ""."""
    try:
        kernels()
    except EngineError as error:
        return unavailable_reason() or str(error)
    return ""
