"""Activations that wait for the backward pass in bfloat16.

A tensor is written in float32, read so by the forward pass, and put away in half the
bytes until its next use is near. Kernels compute in float32 as before; what they read
then has eight bits of mantissa, so gradients are off by some 1e-3 of their norm.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from edge_sdk.program.graph import Graph
from edge_sdk.program.schedule import Schedule, Step

__all__ = ["halved"]

_NEAR = 4  # steps; what waits less would be copied twice for nothing
# Their backward passes divide by a deviation: where a mask has emptied a channel it is
# all but zero, and a rounded input would be off by hundreds of them.
_NORMS = {"norm", "depthwise", "layer_norm", "norm_conv"}


def halved(own: Schedule, graph: Graph) -> tuple[Schedule, int]:
    """The schedule with activations put away in bfloat16, and how many there are.

    Inputs, whole numbers, what a kernel keeps for itself and what a norm's backward
    pass reads stay as they are.
    """
    gaps = _gaps(own, graph)
    done = replace(own, steps=[], sizes=list(own.sizes))
    away: dict[int, int] = {}
    found: dict[int, int] = {}
    for at, step in enumerate(own.steps):
        for tensor, (_, back) in gaps.items():
            if back == at:
                found[tensor] = done.new(own.sizes[tensor])
                done.steps.append(
                    _between("from_bf16", away[tensor], found[tensor], own, tensor)
                )
        done.steps.append(_renamed(step, found))
        for tensor, (last, _) in gaps.items():
            if last == at:
                away[tensor] = done.new((own.sizes[tensor] + 1) // 2)
                done.steps.append(
                    _between("to_bf16", tensor, away[tensor], own, tensor)
                )
    return done, len(gaps)


def _gaps(own: Schedule, graph: Graph) -> dict[int, tuple[int, int]]:
    """The two steps between which each activation waits longest, where it is long."""
    uses: dict[int, list[int]] = {}
    for at, step in enumerate(own.steps):
        for tensor in (*step.reads, *step.writes):
            uses.setdefault(tensor, []).append(at)
    gaps = {}
    for tensor in _activations(own, graph):
        pairs = list(pairwise(uses[tensor]))
        last, back = max(pairs, key=lambda pair: pair[1] - pair[0], default=(0, 0))
        if back - last > _NEAR:
            gaps[tensor] = last, back
    return gaps


def _activations(own: Schedule, graph: Graph) -> list[int]:
    """Outputs of operations in a forward pass that may be rounded."""
    exact = {t for s in own.steps if s.backward and s.kernel in _NORMS for t in s.reads}
    found = []
    for step in own.steps:
        if step.operation is not None and not step.backward:
            made = zip(step.operation.outputs, step.outputs, strict=True)
            found += [
                t
                for value, t in made
                if not graph.tensors[value].whole and t not in exact
            ]
    return found


def _between(kernel: str, tensor: int, to: int, own: Schedule, of: int) -> Step:
    return Step(kernel, inputs=(tensor,), outputs=(to,), ints=(own.sizes[of],))


def _renamed(step: Step, found: dict[int, int]) -> Step:
    def named(tensors: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(found.get(t, t) for t in tensors)

    return replace(step, inputs=named(step.inputs), outputs=named(step.outputs))
