"""`fuse_depthwise`: depth-wise layers take the norms around them along.

One kernel then passes over a channel where five did. Requires: norms that have taken
their activations in. Ensures: the same values, and the same tensors from outside and to
outside.
"""

from __future__ import annotations

from edge_sdk.program.graph import Graph, Op
from edge_sdk.program.passes.rewrite import Rewrite, activation_of

__all__ = ["fuse_depthwise"]


def fuse_depthwise(graph: Graph) -> Graph:
    """norm?, activation?, depth-wise conv, norm?, activation? -> depthwise."""
    work = Rewrite(graph)
    for at in range(len(graph.operations)):
        _depthwise(work, at)
    return work.graph()


def _depthwise(work: Rewrite, at: int) -> None:
    conv = work.at(at, "conv")
    if conv is None or len(work.shape(conv.inputs[0])) not in {2, 3}:
        return
    groups, channels = conv.ints[-1], work.shape(conv.inputs[0])[0]
    if groups != channels:
        return
    before_at = work.maker(conv.inputs[0])
    if work.only_user(conv.inputs[0]) != at:
        before_at = -1
    before = _chained(work.at(before_at))
    after_at = work.only_user(conv.outputs[0])
    after = _chained(work.at(after_at))
    modes = {_batch(before), _batch(after)} - {None}
    if len(modes) > 1:  # one of batch statistics, one of running ones
        after, modes = None, {_batch(before)}
    parts = [at, *([before_at] if before else []), *([after_at] if after else [])]
    merged = Op(
        "depthwise",
        before.inputs if before else conv.inputs,
        after.outputs if after else conv.outputs,
        (*conv.parameters, *_parameters(before), *_parameters(after)),
        (
            *conv.ints[:-1],
            int(1 in modes),
            *_kind(before),
            *_kind(after),
        ),
        (*_reals(before), *_reals(after)),
        conv.layer,
        conv.source,
    )
    work.merge(tuple(parts), merged)


def _chained(operation: Op | None) -> Op | None:
    """A batch norm without a residual, or an activation: what the chain can hold."""
    if operation is None:
        return None
    norm = operation.name == "norm" and not operation.ints[0]
    fits = norm or activation_of(operation)
    return operation if fits and len(operation.inputs) == 1 else None


def _batch(operation: Op | None) -> int | None:
    """1 for a norm of batch statistics, 0 for running ones, None without a norm."""
    norm = operation is not None and operation.name == "norm"
    return operation.ints[2] if norm and operation is not None else None


def _kind(operation: Op | None) -> tuple[int, int]:
    """Two attributes of the chain: 1 for a norm, and the activation."""
    if operation is None:
        return 0, 0
    if operation.name == "norm":
        return 1, operation.ints[1]
    return 0, activation_of(operation)


def _parameters(operation: Op | None) -> tuple[int, ...]:
    if operation is None or operation.name != "norm":
        return (-1, -1, -1, -1)
    return operation.parameters


def _reals(operation: Op | None) -> tuple[float, ...]:
    if operation is None or operation.name != "norm":
        return (0.0, 1.0)
    return operation.reals
