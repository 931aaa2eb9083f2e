"""The formats a model can be exported to: one file each, one literal table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx

from export.passes.remove_dead_channels import Kept
from export.rebuild import Inputs, Source

__all__ = ["Material", "Product", "Target"]


@dataclass(frozen=True, eq=False)
class Material:
    """What a target works from.

    Attributes:
        source: The module and its mask.
        dense: The dense ONNX graph; a target copies it before changing it.
        facts: Key to text: what goes into the file's metadata.
        calibration: Inputs for formats that measure activations; None without data.
        kept: Weights whose dead channels are gone: (axis, positions that stayed).
    """

    source: Source
    dense: onnx.ModelProto
    facts: Mapping[str, str]
    calibration: Inputs | None = None
    kept: Kept = field(default_factory=dict)

    def copy(self) -> onnx.ModelProto:
        """A copy of the dense graph, to change."""
        model = onnx.ModelProto()
        model.CopyFrom(self.dense)
        return model


@dataclass(frozen=True, eq=False)
class Product:
    """What a target made, with what the gates compare it to.

    Attributes:
        content: The file's bytes.
        model: The ONNX model whose weights carry the mask; the file's own graph, or
            what it was converted from.
        reference: Dense ONNX of the same values: outputs must be equal bit for bit.
            None where arithmetic differs, as in the native runtime.
        notes: What was done, in words.
    """

    content: bytes
    model: onnx.ModelProto
    reference: onnx.ModelProto | None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        name: As given to ``--format``.
        suffix: Of the file's name.
        make: Material to product.
        reader: What runs it: "onnx" and "ort" are onnxruntime's, "native" is ours.
        exact: Whether values are kept exactly; else the accuracy gate decides.
        calibrated: Whether it needs examples.
        summary: One line for the help text.
    """

    name: str
    suffix: str
    make: Callable[[Material], Product]
    reader: Literal["onnx", "ort", "native"]
    exact: bool
    calibrated: bool
    summary: str
