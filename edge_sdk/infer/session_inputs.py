"""Inputs of an onnxruntime session: one array, or several out of rows of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.infer.input_parts import InputPart, apart_inputs

__all__ = ["DTYPES", "feeds"]

# onnxruntime's names of what an input holds; what else there is, float32.
DTYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
}


def feeds(
    session: Any, batch: NDArray[Any] | Sequence[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Inputs by the names that the session's model gives them.

    Args:
        session: Of a model of one input or several.
        batch: An array for each, or one: of several inputs rows of all, (n, values).
    """
    specs = session.get_inputs()
    if not isinstance(batch, np.ndarray):
        return {spec.name: one for spec, one in zip(specs, batch, strict=True)}
    sizes = specs[0].shape[1:]
    joined = batch.ndim == 2 and sizes != [batch.shape[1]] and _are_fixed(sizes)
    if len(specs) == 1 and not joined:
        dtype = DTYPES.get(specs[0].type, batch.dtype)
        return {specs[0].name: batch.astype(dtype, copy=False)}
    parts = [
        InputPart(spec.name, tuple(spec.shape[1:]), DTYPES.get(spec.type, "float32"))
        for spec in specs
    ]
    return apart_inputs(batch, parts)


def _are_fixed(sizes: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in sizes)
