"""A training step under a memory ceiling: parts, recomputation, bfloat16, refusal."""

from edge_sdk.program.ceiling.choice import (
    MemoryCeiling,
    MemoryExceededError,
    StepPlan,
    fit,
    parameter_bytes,
    planned_step,
)

__all__ = [
    "MemoryCeiling",
    "MemoryExceededError",
    "StepPlan",
    "fit",
    "parameter_bytes",
    "planned_step",
]
