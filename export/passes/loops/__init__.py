"""Loops over steps, which the exporter writes out, as one operation.

`JoinSteps` is the pass; `values` says what a graph's values are made of.
"""

from export.passes.loops.join_steps import JoinSteps

__all__ = ["JoinSteps"]
