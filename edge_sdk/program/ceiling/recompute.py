"""Recomputation: forward steps run a second time instead of keeping what they made.

A schedule's forward steps are cut into segments. Only what crosses a cut stays in
memory until the backward pass; the rest of a segment is computed again when its
backward steps begin. The same kernels run on the same values, so gradients have the
same bits; at most one more forward pass is the price.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edge_sdk.program.graph import Graph, Parameter
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.schedule import Schedule, Step

__all__ = ["recomputed"]


def recomputed(
    own: Schedule, graph: Graph, parameters: tuple[Parameter, ...], segments: int
) -> Schedule:
    """The schedule with all segments but the last computed again.

    Args:
        own: With backward steps.
        graph: What it was made of.
        parameters: The program's.
        segments: How many; cut where equal parts of what backward steps read are made.
    """
    first = next((at for at, s in enumerate(own.steps) if s.backward), 0)
    part_of = _parts(own, first, segments)
    maker = {t: at for at in range(first) for t in own.steps[at].writes}
    crossing = {
        t
        for at in range(first)
        for t in own.steps[at].reads
        if part_of[maker[t]] != part_of[at]
    }
    dropped = {
        t for t, at in maker.items() if part_of[at] < segments - 1 and t not in crossing
    }
    done = replace(own, steps=own.steps[:first], sizes=list(own.sizes))
    again: dict[int, int] = {}
    run: set[int] = set()
    for step in own.steps[first:]:
        lost = [t for t in step.reads if t in dropped]
        part = part_of[maker[lost[0]]] if lost else -1
        if lost and part not in run:
            run.add(part)
            needed = _needed(own, part, part_of, maker, dropped, first)
            for place in needed:
                done.steps.append(
                    _copied(own.steps[place], again, done, graph, parameters)
                )
        done.steps.append(_renamed(step, again))
    return done


def _parts(own: Schedule, first: int, segments: int) -> list[int]:
    """The segment of each forward step."""
    kept = {t for step in own.steps[first:] for t in step.reads}
    weights = [
        sum(own.sizes[t] for t in step.writes if t in kept)
        for step in own.steps[:first]
    ]
    total, sofar, found = max(1, sum(weights)), 0, []
    for weight in weights:
        found.append(min(segments - 1, sofar * segments // total))
        sofar += weight
    return found


def _needed(
    own: Schedule,
    part: int,
    part_of: list[int],
    maker: dict[int, int],
    dropped: set[int],
    first: int,
) -> list[int]:
    """The forward steps of a segment that its backward steps depend on, in order."""
    wanted = {
        t
        for step in own.steps[first:]
        for t in step.reads
        if t in dropped and part_of[maker[t]] == part
    }
    found: set[int] = set()
    for at in range(first - 1, -1, -1):
        step = own.steps[at]
        if part_of[at] == part and wanted & set(step.writes):
            found.add(at)
            wanted |= {t for t in step.reads if t in dropped}
    return sorted(found)


def _copied(
    step: Step,
    again: dict[int, int],
    done: Schedule,
    graph: Graph,
    parameters: tuple[Parameter, ...],
) -> Step:
    """The same step on memory of its own; running statistics move only once."""
    for tensor in step.writes:
        again[tensor] = done.new(done.sizes[tensor])
    made = _renamed(step, again)
    if step.operation is None:
        return made
    call = operands(step.operation, graph, parameters)
    moved = rule_of(step.operation).moves(call)
    kept = [-1 if k in moved else p for k, p in enumerate(step.parameters)]
    return replace(made, parameters=tuple(kept))


def _renamed(step: Step, again: dict[int, int]) -> Step:
    def named(tensors: Iterable[int]) -> tuple[int, ...]:
        return tuple(again.get(t, t) for t in tensors)

    return replace(
        step,
        inputs=named(step.inputs),
        outputs=named(step.outputs),
        stash=named(step.stash),
    )
