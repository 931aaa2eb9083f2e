"""All passes in their order: a graph becomes one that computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.graph import Graph
from edge_sdk.program.passes.copies import join_copies
from edge_sdk.program.passes.depthwise import fuse_depthwise
from edge_sdk.program.passes.fuse import fuse_activations, fuse_residuals
from edge_sdk.program.passes.prologue import fuse_prologues

__all__ = ["PASSES", "optimized"]

PASSES: Final[tuple[Callable[[Graph], Graph], ...]] = (
    join_copies,
    fuse_residuals,
    fuse_activations,
    fuse_depthwise,
    fuse_prologues,
)


def optimized(graph: Graph) -> Graph:
    """The graph after all passes."""
    for each in PASSES:
        graph = each(graph)
    return graph
