"""Preprocessing that an app must do before the model: measured, not trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.infer.input_parts import listed
from edge_sdk.tasks.batch import prepared
from export.rebuild import Inputs, Source

__all__ = ["describe_preparation"]

_LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "CHW": lambda raw: raw,
    "HW": lambda raw: raw[:, None],
    "HWC": lambda raw: np.moveaxis(raw, -1, 1),
}


def describe_preparation(source: Source, inputs: Inputs) -> dict[str, Any]:
    """The contents of ``preprocess.json``.

    `Task.prepare` is code, and an app in Kotlin cannot call it. Almost always it is one
    scale and one shift per channel; they are measured on zeros and on ones, and
    believed only if they give the prepared evaluation examples back.

    Returns:
        Layout, dtype and shape of the model's input; and, if `prepare` is of that form,
        layout and dtype of the raw example with mean and std such that
        ``input = (raw / range - mean) / std``. Otherwise "custom": compare with the
        golden example.
    """
    known: dict[str, Any] = {
        "model_input": {
            "shape": [1, *source.input_shape],
            "layout": "NCHW" if len(source.input_shape) == 3 else "N...",
            "dtype": str(inputs.batch.dtype),
        },
        "kind": "custom",
    }
    if source.parts:
        known["model_input"]["inputs"] = json.loads(listed(source.parts))
    raw = inputs.raw
    if raw is None or source.contract is None:
        known["kind"] = "none: feed the model's input as it is"
        return known
    known["raw"] = {"shape": list(raw.shape[1:]), "dtype": str(raw.dtype)}
    for layout, view in _LAYOUTS.items():
        found = _affine(source, raw, view, inputs.batch)
        if found is not None:
            known |= {"kind": "affine", **found}
            known["raw"]["layout"] = layout
            known["resize"] = list(source.input_shape[1:])
            break
    return known


def _affine(
    source: Source,
    raw: NDArray[Any],
    view: Callable[[NDArray[Any]], NDArray[Any]],
    wanted: NDArray[np.float32],
) -> dict[str, Any] | None:
    """Range, mean and std per channel, if they explain the prepared examples."""
    try:
        seen = view(raw)
    except (IndexError, np.exceptions.AxisError):
        return None
    if seen.shape != wanted.shape or seen.ndim != 4:
        return None
    size = 255.0 if raw.dtype == np.uint8 else 1.0
    zeros, ones = (
        _prepared(source, np.full_like(raw[:1], value)) for value in (0, size)
    )
    axes = (0, 2, 3)
    scale, shift = (ones - zeros).mean(axes), zeros.mean(axes)
    if not np.all(scale > 0):
        return None
    shaped = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
    made = seen.astype(np.float32) / size * shaped[0] + shaped[1]
    if not np.allclose(made, wanted, rtol=1e-4, atol=1e-4):
        return None
    std = 1.0 / scale
    mean = -shift * std
    return {
        "range": [0.0, size],
        "mean": [round(float(v), 7) for v in mean],
        "std": [round(float(v), 7) for v in std],
    }


def _prepared(source: Source, raw: NDArray[Any]) -> NDArray[np.float32]:
    assert source.contract is not None  # noqa: S101 - the caller looked
    with torch.no_grad():
        return prepared(source.contract, raw).float().numpy()
