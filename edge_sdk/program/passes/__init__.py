"""Passes: a graph becomes a graph that computes the same with less work."""

from edge_sdk.program.passes.run import optimized

__all__ = ["optimized"]
