"""Fusion of a norm and its activation into the convolution that alone reads them.

The activation is then never stored: forward, it is formed while the convolution's input
is padded; backward, it is computed again where its tile is needed.
"""

from __future__ import annotations

from edge_sdk.program.graph import Graph, Op
from edge_sdk.program.passes.rewrite import Rewrite, activation_of

__all__ = ["fuse_prologues"]


def fuse_prologues(graph: Graph) -> Graph:
    """norm?, activation?, conv -> norm_conv."""
    work = Rewrite(graph)
    for at in range(len(graph.operations)):
        _prologue(work, at)
    return work.graph()


def _prologue(work: Rewrite, at: int) -> None:
    conv = work.at(at, "conv")
    if conv is None or work.only_user(conv.inputs[0]) != at:
        return
    before_at = work.maker(conv.inputs[0])
    before = work.at(before_at)
    if before is None or len(before.inputs) != 1:  # a residual is stored all the same
        return
    norm = before.name == "norm"
    groups, activation, batch = before.ints if norm else (0, activation_of(before), 0)
    if not norm and not activation:
        return
    merged = Op(
        "norm_conv",
        before.inputs,
        conv.outputs,
        (*conv.parameters, *(before.parameters if norm else (-1,) * 4)),
        (*conv.ints, int(norm), groups, activation, batch),
        before.reals if norm else (0.0, 1.0),
        before.layer if norm else conv.layer,
        conv.source,
    )
    work.merge((before_at, at), merged)
