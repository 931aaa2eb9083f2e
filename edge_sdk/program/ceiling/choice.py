"""Choice of a training step's plan under a memory ceiling, before the first step.

In this order: the whole batch; parts of it, down to one block of samples; forward steps
run a second time instead of keeping what they made; activations that wait in bfloat16,
where that is allowed; else a refusal that names the smallest ceiling that works. A part
or a second run changes no update beyond rounding; bfloat16 does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling.half import halved
from edge_sdk.program.ceiling.recompute import recomputed
from edge_sdk.program.graph import Graph, Parameter, TrainingProgram
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.passes import optimized
from edge_sdk.program.plan import Plan, lane_width, plan
from edge_sdk.program.schedule import Schedule, schedule
from edge_sdk.sparse import Mask

__all__ = [
    "MemoryCeiling",
    "MemoryExceededError",
    "StepPlan",
    "fit",
    "parameter_bytes",
    "planned_step",
    "work_bytes",
]


MIB = 1 << 20
_SEGMENTS = (2, 3, 4, 6, 8, 12, 16, 24)
_LANES = (16, 8, 4)
# Of each trained value beside itself and its gradient: momentum, the values before,
# the change, and the update that is packed of it.
_COPIES = 4
_QUERIES = 8  # rows of one head that attention takes at a time
_LINE = 16  # reals in a cache line


class MemoryExceededError(EngineError):
    """An order needs more memory than the device may use; a sparser one may not."""


@dataclass(frozen=True, slots=True)
class MemoryCeiling:
    """Memory that a process may hold.

    Attributes:
        nbytes: All of it.
        held: What is taken already: interpreter, examples, the base model.
    """

    nbytes: int
    held: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A planned training step, and what it takes.

    Attributes:
        plan: The steps with their places.
        samples: Of the batch.
        twice: Forward steps that are run a second time.
        halves: Activations that wait in bfloat16.
        other_bytes: What the process holds beside the arena.
        ceiling: The process's bound; None without one.
    """

    plan: Plan
    samples: int
    twice: int = 0
    halves: int = 0
    other_bytes: int = 0
    ceiling: MemoryCeiling | None = None

    @property
    def at_once(self) -> int:
        """Most samples that go through at once."""
        return min(self.samples, self.plan.lanes * self.plan.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of the process while it trains."""
        return self.plan.nbytes + self.other_bytes

    def told(self) -> str:
        """The plan in words.

        Example: ``8 of 32 examples at once, 12 of 40 steps computed twice: 3.1 MiB of
        activations``.
        """
        how = [f"{self.at_once} of {self.samples} examples at once"]
        if self.twice:
            how.append(f"{self.twice} forward steps computed twice instead of kept")
        if self.halves:
            how.append(f"{self.halves} activations wait in bfloat16")
        took = f"{self.plan.nbytes / MIB:.1f} MiB of activations"
        if self.ceiling is not None:
            took += (
                f", {self.nbytes / MIB:.0f} MiB in all of "
                f"{self.ceiling.nbytes / MIB:.0f} allowed"
            )
        return f"{', '.join(how)}: {took}"


def planned_step(
    program: TrainingProgram,
    mask: Mask,
    ceiling: MemoryCeiling | None,
    *,
    samples: int,
    vector_lanes: int,
    ghost_norm: bool = False,
    half: bool = False,
    threads: int = 1,
) -> StepPlan:
    """The plan of a program's step under a mask and a ceiling; takes no memory for it.

    Args:
        program: As its file has it.
        mask: Patterns by weight name.
        ceiling: None for no bound.
        samples: Of a batch.
        vector_lanes: Reals in one of the processor's vectors.
        ghost_norm: Whether batch norm's statistics may be per part of a batch.
        half: Whether activations may wait in bfloat16.
        threads: Of the step.

    Raises:
        MemoryExceededError: If nothing fits; names the smallest ceiling that does.
    """
    program = replace(program, training=optimized(program.training))
    own = schedule(program.training, program.slots, train=True)
    return fit(
        program,
        own,
        samples=samples,
        vector_lanes=vector_lanes,
        split=own.splits(ghost_norm=ghost_norm),
        half=half,
        threads=threads,
        ceiling=ceiling,
        other_bytes=parameter_bytes(program, mask),
    )


def fit(
    program: TrainingProgram,
    own: Schedule,
    *,
    samples: int,
    vector_lanes: int,
    split: bool,
    half: bool = False,
    threads: int = 1,
    ceiling: MemoryCeiling | None = None,
    other_bytes: int = 0,
) -> StepPlan:
    """The first plan in the order above that stays below the ceiling.

    Args:
        program: Whose training graph it is.
        own: The schedule of that graph.
        samples: Of a batch.
        vector_lanes: Reals in one of the processor's vectors.
        split: Whether the batch may go through in parts.
        half: Whether activations may wait in bfloat16.
        threads: Of the step.
        ceiling: None takes the first.
        other_bytes: Of parameters and their copies.

    Raises:
        MemoryExceededError: If nothing fits; names the smallest ceiling that does.
    """
    held = ceiling.held if ceiling is not None else 0
    least: StepPlan | None = None
    found = _candidates(program, own, samples, vector_lanes, split=split, half=half)
    for made, twice, halves in found:
        extra = (
            held
            + other_bytes
            + work_bytes(made, vector_lanes=vector_lanes, threads=threads)
        )
        one = StepPlan(made, samples, twice, halves, extra, ceiling)
        if ceiling is None or one.nbytes <= ceiling.nbytes:
            return one
        if least is None or one.nbytes < least.nbytes:
            least = one
    assert least is not None and ceiling is not None  # noqa: S101, PT018 - for mypy
    what = "loss" if own.whole else "batch norm"
    more = "" if split else f"; its {what} needs the batch whole"
    softer = "" if half else ', or set activations = "bf16"'
    raise MemoryExceededError(
        f"a training step of {samples} examples needs {_mib(least.nbytes)} MiB at the "
        f"least, {_mib(least.plan.nbytes)} of them for activations; "
        f"{_mib(ceiling.nbytes)} are allowed{more}",
        remedy=f"Set caps.ram_mib (or the memory limit over this process) to "
        f"{_mib(least.nbytes)} or more, take a lower density or batch{softer}.",
    )


def _mib(nbytes: int) -> int:
    return -(-nbytes // MIB)


def _candidates(
    program: TrainingProgram,
    own: Schedule,
    samples: int,
    vector_lanes: int,
    *,
    split: bool,
    half: bool,
) -> Iterator[tuple[Plan, int, int]]:
    """Plans with the steps that they run twice and the activations they halve."""
    lanes = lane_width(samples, vector_lanes)
    whole = -(-samples // lanes)
    yield plan(own, lanes=lanes, blocks=whole), 0, 0
    sizes = [(n, -(-samples // n)) for n in _LANES if n < lanes]  # less is padded
    if split:
        parts = {-(-whole // n) for n in range(2, whole + 1)}
        sizes = [(lanes, blocks) for blocks in sorted(parts, reverse=True)]
        sizes += [(n, 1) for n in _LANES if n < lanes]
    for width, blocks in sizes:
        yield plan(own, lanes=width, blocks=blocks), 0, 0
    width, blocks = sizes[-1] if sizes else (lanes, whole)
    graph, parameters = program.training, program.slots
    schedules = []
    for segments in _SEGMENTS:
        again = recomputed(own, graph, parameters, segments)
        schedules.append(again)
        twice = len(again.steps) - len(own.steps)
        yield plan(again, lanes=width, blocks=blocks), twice, 0
    for each in (own, *schedules) if half else ():
        softer, halves = halved(each, graph)
        twice = len(each.steps) - len(own.steps)
        yield plan(softer, lanes=width, blocks=blocks), twice, halves


def work_bytes(made: Plan, *, vector_lanes: int = 16, threads: int = 1) -> int:
    """Bound of the work space of convolutions and attention, in bytes of float32.

    Convolutions: one padded copy of the largest tensor. Attention: for each thread, the
    copies of one head that `Work` in ``attention.cpp`` lays out, with its dropout.
    """
    largest = max(made.schedule.sizes)
    padded = 4 * 3 * largest * made.lanes * made.blocks // 2
    side = min(made.lanes, vector_lanes)
    heads = (
        _head_reals(step.ints, side)
        for step in made.schedule.steps
        if step.kernel == "attention"
    )
    return padded + 4 * threads * max(heads, default=0)


def _head_reals(ints: tuple[int, ...], side: int) -> int:
    """Reals that a backward pass of attention copies of one head, at most."""
    _, _, keys, width, value_width = ints[:5]
    gap = 2 * _LINE  # a row has an odd number of cache lines
    wide, values, row = (n * side + gap for n in (width, value_width, keys))
    return (2 * keys + _QUERIES) * (wide + values) + 3 * _QUERIES * row


def parameter_bytes(program: TrainingProgram, mask: Mask) -> int:
    """Bytes of values, gradients, index and copies that training under a mask takes."""
    total = 0
    linear = _linear(program.training, program.slots)
    for at, parameter in enumerate(program.parameters):
        kept = parameter.size
        if parameter.name in mask.layers:
            kept = int(mask[parameter.name].sum())
            if kept < parameter.size:  # columns, for linear layers by row and by column
                total += kept * (4 if at in linear else 2) + 4 * parameter.shape[0]
        total += 4 * kept * (2 + _COPIES if parameter.trained else 1)
    return total


def _linear(graph: Graph, parameters: tuple[Parameter, ...]) -> set[int]:
    """Numbers of the weights of two axes."""
    found = set()
    for operation in graph.operations:
        rule = rule_of(operation)
        if rule.weight is not None:
            call = operands(operation, graph, parameters)
            if len(rule.weight(call)[0]) == 2:
                found.add(operation.parameters[0])
    return found
