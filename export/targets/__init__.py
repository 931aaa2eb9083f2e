"""Decides which formats a model can be exported to: a file each, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_sdk.infer.input_parts import InputPart
from edge_sdk.infer.output_parts import OutputPart
from export.checks.reference import Reference
from export.native.join_inputs import JoinInputs
from export.passes import run
from export.passes.remove_dead_channels import Kept
from export.rebuild import Inputs, Source

__all__ = ["FileInterface", "Material", "Product", "Target"]


@dataclass(frozen=True, eq=False)
class Material:
    """Input of a target.

    Attributes:
        source: The module and its mask.
        dense: The dense ONNX graph; a target copies it before changing it.
        facts: Key to text: what goes into the file's metadata.
        compared: Inputs that outputs are compared on.
        reference: The module's outputs on them.
        calibration: Inputs for formats that measure activations; None without data.
        kept: Weights whose dead channels are gone: (axis, positions that stayed).
        left_out: Masked weights that the graph does not hold, each with the reason.
        layers: Names of values to the module that computes each, for messages.
        input_scales: Of a file that is built again, by `export.native.input_scales`;
            None: they are measured on `calibration`.
    """

    source: Source
    dense: onnx.ModelProto
    facts: Mapping[str, str]
    compared: Inputs
    reference: Reference
    calibration: Inputs | None = None
    kept: Kept = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    input_scales: Mapping[str, tuple[float, int]] | None = None

    def copy(self) -> onnx.ModelProto:
        """A copy of the dense graph, to change."""
        model = onnx.ModelProto()
        model.CopyFrom(self.dense)
        return model

    def of_one_row(self) -> Material:
        """The graph with one input, a row of all: a native runtime fills one buffer."""
        if not self.source.parts:
            return self
        dense = self.copy()
        run(dense, (JoinInputs(self.source.parts),))
        return replace(self, dense=dense)


@dataclass(frozen=True, eq=False)
class Product:
    """Output of a target, with what the gates compare it to.

    Attributes:
        content: The file's bytes.
        model: The ONNX model whose weights carry the mask; the file's own graph, or
            what it was converted from.
        reference: Dense ONNX of the same values, made without the packed form:
            outputs must be equal bit for bit. None where arithmetic differs, as in the
            native runtime.
        notes: What was done, in words.
    """

    content: bytes
    model: onnx.ModelProto
    reference: onnx.ModelProto | None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class FileInterface:
    """Inputs and outputs of a file, in order.

    Attributes:
        inputs: Their names, shapes of one example, and dtypes by numpy's names.
        outputs: Their names, and shapes of one example.
    """

    inputs: tuple[InputPart, ...]
    outputs: tuple[OutputPart, ...]


class RunFormat(Protocol):
    """Runner of a format's files."""

    def __call__(
        self, content: bytes, batch: NDArray[Any], /, parts: Sequence[InputPart]
    ) -> NDArray[np.float32]:
        """Outputs of a batch; `parts` of a model of several inputs are its rows'."""


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        name: As given to ``--format``.
        suffix: Of the file's name.
        make: Material to product.
        reader: What runs it: "onnx" and "ort" are onnxruntime's, "native" is ours,
            "own" is what `run` calls, "elsewhere" cannot run on this machine.
        exact: Whether values are kept exactly; else the accuracy gate decides.
        calibrated: Whether it needs examples.
        summary: One line for the help text.
        run: The file's bytes, a batch and the parts of its rows, of a model of several
            inputs, to outputs, for the reader "own".
        describe: The file's bytes to its inputs and outputs, as its library says them.
    """

    name: str
    suffix: str
    make: Callable[[Material], Product]
    reader: Literal["onnx", "ort", "native", "own", "elsewhere"]
    exact: bool
    calibrated: bool
    summary: str
    run: RunFormat | None = None
    describe: Callable[[bytes], FileInterface] | None = None
