"""Every format by its name: a new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from device_profiles.words import meant
from edge_sdk.errors import ExportError
from export.targets import (
    Target,
    coreml_format,
    executorch_format,
    litert_format,
    native,
    onnx_dense,
    onnx_half,
    onnx_int8,
    onnx_packed,
    ort_format,
)

__all__ = ["TARGETS", "find_target"]

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            onnx_packed.TARGET,
            onnx_dense.TARGET,
            onnx_half.TARGET,
            onnx_int8.TARGET,
            ort_format.TARGET,
            native.TARGET,
            native.INT8,
            executorch_format.TARGET,
            litert_format.TARGET,
            coreml_format.TARGET,
        )
    }
)


def find_target(name: str) -> Target:
    """The format of that name.

    Raises:
        ExportError: If there is none; lists those there are.
    """
    if not isinstance(name, str):
        raise ExportError(
            f"a format is {name!r}, not a name",
            remedy=f"Choose one of {', '.join(TARGETS)}.",
        )
    if name not in TARGETS:
        raise ExportError(
            f"there is no format {name!r}{meant(name, TARGETS)}",
            remedy=f"Choose one of {', '.join(TARGETS)}.",
        )
    return TARGETS[name]
