"""Real training steps of a task at a density: how long one takes, what it holds."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edge_sdk.device.probe.ram import read_fields
from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Stopped, train
from edge_sdk.training.memory_limit import EngineName
from edge_sdk.training.torch_engine.choice import Race, choose_engine
from edge_sdk.training.torch_engine.placement import Placement
from edge_sdk.training.torch_engine.program import captured
from edge_sdk.wire.messages import Training

__all__ = [
    "CapturedProgram",
    "StepTime",
    "capture_program",
    "measure_steps",
    "peak_rss_mib",
    "release",
    "reset_peak",
]

WARM_STEPS = 2  # kernels are compiled, pages touched, the engine's race run
MOST_STEPS = 200
_COMPARED_ON = 8  # examples on which the program takes steps beside torch
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class StepTime:
    """Measured time and memory of training steps at one density.

    Attributes:
        density: Of the masked weights.
        batch: Examples per step.
        engine: What ran: "sparse" is a program, which computes kept weights alone.
        reason: Why that one.
        seconds: Median of a step, data preparation and optimizer included.
        steps: Steps behind the median.
        peak_mib: Most anonymous memory of this process meanwhile; None if unknown.
    """

    density: float
    batch: int
    engine: Literal["masked", "sparse"]
    reason: str
    seconds: float
    steps: int
    peak_mib: float | None


@dataclass(frozen=True, slots=True)
class CapturedProgram:
    """A task's program, made on this board, where a coordinator would send one.

    Attributes:
        file: Its bytes; empty where there is none.
        why_not: The reason why.
        held_mib: Memory that torch's compiler holds since then: it is no part of what
            training takes.
    """

    file: bytes = b""
    why_not: str = ""
    held_mib: float = 0.0

    def give(self) -> bytes:
        """The bytes; raises `EngineError` where there are none."""
        if not self.file:
            raise EngineError(self.why_not)
        return self.file


def capture_program(
    task: Task, examples: Examples, engine: EngineName
) -> CapturedProgram:
    """The task's program; empty where the engine asked for needs none."""
    if engine == "masked" or unavailable_reason():
        return CapturedProgram(why_not=unavailable_reason() or "engine = masked")
    release()
    before = _anonymous_mib()
    few = np.arange(_COMPARED_ON) % len(examples)
    try:
        file = captured(task.model(), task.loss, tensors(task, examples, few))
    except EngineError as error:
        return CapturedProgram(why_not=str(error))
    release()
    return CapturedProgram(file, held_mib=max(0.0, _anonymous_mib() - before))


def measure_steps(
    task: Task,
    examples: Examples,
    density: float,
    *,
    batch: int,
    engine: EngineName,
    seconds: float,
    program: CapturedProgram | None = None,
    placement: Placement | None = None,
    seed: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> StepTime:
    """Trains for so many seconds with the agent's own loop, then drops the model.

    At least one step is timed, however long it takes.

    Args:
        task: What to train.
        examples: The device's own.
        density: Of the masked weights, the same in every layer.
        batch: Examples per step.
        engine: Which engine; "auto" races them as the agent does.
        seconds: Time to spend, warm-up included.
        program: From `capture_program`, for several measurements; made here without.
        placement: Where dense kernels compute; None for the processor. Memory of a GPU
            that shares the board's counts as the board's.
        seed: Of mask, weights and order.
        clock: Monotonic seconds.

    Raises:
        EdgeError: As training itself.
    """
    own = program or capture_program(task, examples, engine)
    release()
    reset = reset_peak()
    shared = placement is not None and placement.shares_ram()
    if placement is not None:
        placement.reset_peak()
    # Drawing the mask is in the peak: a large linear layer makes it the highest point.
    layers = layers_of(task.model(), task.dense_layers)
    mask = draw(layers, exact_counts(uniform(layers), layers, density), seed)
    model = choose_engine(
        *(make_model(task, seed), mask, task.loss),
        Race(tensors(task, examples, slice(0, batch)), worth_s=0, placement=placement),
        own.give,
        engine=engine,
    )
    ticks = _train(model, task, examples, batch=batch, seconds=seconds, clock=clock)
    peak = peak_rss_mib() - own.held_mib if reset else None
    if peak is not None and placement is not None and shared:
        peak += placement.peak_mib()
    taken = np.diff(ticks)
    times = taken[WARM_STEPS:] if len(taken) > WARM_STEPS else taken[-1:]
    name: Literal["masked", "sparse"] = (
        "masked" if model.engine == "masked" else "sparse"
    )
    reason = model.reason
    del model
    release()
    return StepTime(
        density, batch, name, reason, statistics.median(times), len(times), peak
    )


def _train(
    model: TrainingModel,
    task: Task,
    examples: Examples,
    *,
    batch: int,
    seconds: float,
    clock: Callable[[], float],
) -> list[float]:
    """The instants between steps; the loop asks whether to stop before each."""
    ticks: list[float] = []

    def stop() -> bool:
        ticks.append(clock())
        spent, taken = ticks[-1] - ticks[0], len(ticks) - 1
        over = taken > WARM_STEPS and spent > seconds
        # On a board where steps take long there is no time to warm up in.
        return over or taken >= MOST_STEPS or (taken > 0 and spent > 2 * seconds)

    # So small a rate changes nothing that could make the loss run away.
    plan = Training(epochs=1 << 20, batch_size=batch, learning_rate=1e-9)
    with contextlib.suppress(Stopped):
        train(model, task, examples, plan, stop=stop)
    return ticks


def release() -> None:
    """Gives freed memory back, so that one measurement does not pay for the last."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # musl has none
        return


def reset_peak() -> bool:
    """Starts the kernel's high-water mark anew; False where that is not allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_rss_mib() -> float:
    """Most anonymous memory since `reset_peak`: library pages can be dropped.

    Raises:
        EngineError: On a system without ``/proc``.
    """
    fields = read_fields(STATUS)
    if "VmHWM" not in fields:
        raise EngineError(
            "this system does not say how much memory a process holds",
            remedy="Run the probe on Linux.",
        )
    return (fields["VmHWM"] - fields.get("RssFile", 0)) / 1024


def _anonymous_mib() -> float:
    return read_fields(STATUS).get("RssAnon", 0) / 1024
