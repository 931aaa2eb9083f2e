"""`onnx-int8`: static QDQ with packed int8 weights; needs calibration and accuracy."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from edge_sdk.errors import DataError, ExportError
from edge_sdk.infer.session_inputs import feeds
from export import runtime
from export.checks.drift import OUTPUT_ERROR, output_error
from export.passes import run
from export.passes.describe import Describe
from export.passes.graph import attribute
from export.passes.int8_values import Int8Values
from export.passes.pack_sparse import PackSparse
from export.passes.spectra import SPECTRUM
from export.passes.strip_metadata import StripMetadata
from export.rebuild import Inputs
from export.targets import Material, Product, Target

__all__ = ["TARGET"]


_How: TypeAlias = dict[str, list[str]]  # arguments of onnxruntime's quantiser
_TRIED = 64  # examples that a way of rounding is tried on
# Layers, and what onnxruntime computes in int8 in one go with them.
_WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_LAYERS = [*_WEIGHTED, "Relu", "Clip"]
# Signs of a norm of each example: of layers, of groups, or by formula (RMS).
_NORMS = {"LayerNormalization", "InstanceNormalization", "Sqrt", "ReduceL2"}


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Hands the calibration inputs over one example after the other."""

    def __init__(self, given: Mapping[str, NDArray[Any]]) -> None:
        self._given = given
        self._numbers = iter(range(len(next(iter(given.values())))))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next example's inputs, or None at the end."""
        at = next(self._numbers, None)
        if at is None:
            return None
        return {name: array[at : at + 1] for name, array in self._given.items()}


def _make(material: Material) -> Product:
    if material.calibration is None:
        raise DataError("onnx-int8 needs calibration examples: name them with --data")
    model = _least_off(material, material.calibration)
    rounded = run(model, (Int8Values(),))
    facts = {**material.facts, "format": "onnx-int8"}
    reference = onnx.ModelProto()
    reference.CopyFrom(model)
    notes = run(model, (StripMetadata(), PackSparse(), Describe(facts)))
    content = model.SerializeToString(deterministic=True)
    examples = f"calibrated on {len(material.calibration)} examples"
    return Product(content, model, reference, (examples, *rounded, *notes[:-1]))


def _least_off(material: Material, calibration: Inputs) -> onnx.ModelProto:
    """The model rounded as is fastest or, if its outputs suffer, in its layers alone.

    Places of a soft arg-max were off by 2.7 of what they vary by, and are by 0.03. If
    they still suffer, the last layers stay float32, as few as do.
    """
    batch = calibration.batch[:_TRIED]

    def outputs(model: onnx.ModelProto) -> NDArray[np.float32]:
        return runtime.predict(runtime.open_session(model.SerializeToString()), batch)

    wanted, named = outputs(material.dense), material.copy()
    ways = [_rounded(named), _rounded(named, layers_alone=True)]
    sizes = material.reference.sizes
    best, errors, heads = named, [float("inf")], False
    todo = ways[:1] if ways[0] == ways[1] else ways
    while todo and max(errors) > OUTPUT_ERROR / 2:
        how, *todo = todo
        copy = onnx.ModelProto()
        copy.CopyFrom(named)
        made = _quantised(copy, calibration, how)
        found = _errors(outputs(made), wanted, sizes)
        if max(found) < max(errors):
            best, errors = made, found
        if not todo and not heads:
            heads = True
            todo = [*_heads(named, ways[1], errors)]
    error = max(errors)
    if error == float("inf"):
        raise ExportError(
            "a rounded output is not finite",
            remedy="Use onnx-sparse or onnx-fp16 for this model.",
        )
    return best


def _errors(
    made: NDArray[np.float32], wanted: NDArray[np.float32], sizes: Sequence[int]
) -> list[float]:
    """By how much each output is off; of one output one number."""
    if len(sizes) < 2:
        return [output_error(made, wanted)]
    ends = np.cumsum(sizes)[:-1]
    parts = (np.split(array, ends, axis=1) for array in (made, wanted))
    return [output_error(*pair) for pair in zip(*parts, strict=True)]


def _heads(
    model: onnx.ModelProto, how: _How, errors: Sequence[float]
) -> Iterator[_How]:
    """Ways to round layers alone, but for some of them.

    First those that only outputs need which are off, then the last eighth of all, to a
    half. Heads of detectors read large values that hardly vary: boxes of YOLOv8n with
    random weights were off by 0.17 of what they vary by, and are by 0.02.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    layers = [
        node.name
        for node in model.graph.node
        if node.op_type in _WEIGHTED and not weights.isdisjoint(node.input)
    ]
    own = _needed_by(model, errors)
    head = [name for name in layers if name in own]
    if 0 < len(head) <= len(layers) // 2:
        apart = {*how.get("nodes_to_exclude", []), *head}
        yield {**how, "nodes_to_exclude": sorted(apart)}
    least = 0
    for eighths in range(1, 5):
        count = len(layers) * eighths // 8
        if count > least:
            apart = {*how.get("nodes_to_exclude", []), *layers[-count:]}
            yield {**how, "nodes_to_exclude": sorted(apart)}
        least = count


def _needed_by(model: onnx.ModelProto, errors: Sequence[float]) -> set[str]:
    """Names of the nodes that only outputs need which are off, or are read by those."""
    makers = {name: node for node in model.graph.node for name in node.output}
    needs: dict[str, set[str]] = {}
    for output in model.graph.output:
        seen: set[str] = set()
        stack = [output.name]
        while stack:
            name = stack.pop()
            if name in makers and name not in seen:
                seen.add(name)
                stack.extend(makers[name].input)
        needs[output.name] = seen
    names = [output.name for output in model.graph.output]
    if len(names) != len(errors):
        return set()
    off = {n for n, e in zip(names, errors, strict=True) if e > OUTPUT_ERROR / 2}
    rest = [needs[n] for n in names if n not in off and not off & needs[n]]
    values = set().union(*(needs[n] for n in off)).difference(*rest)
    return {makers[name].name for name in values}


def _quantised(
    model: onnx.ModelProto, calibration: Inputs, how: _How
) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear around every layer.

    Weights get one symmetric scale per output unit, so a zero stays zero; activations
    are unsigned with a zero point.
    """
    given = feeds(runtime.open_session(model.SerializeToString()), calibration.batch)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that is done already
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "quantised.onnx"
            quantize_static(
                model,
                str(path),
                _Reader(given),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                **how,
            )
            return onnx.load(path)
    except Exception as error:
        raise ExportError(
            f"onnxruntime could not quantise the model: {error}",
            remedy="Use onnx-sparse or onnx-fp16 for this model.",
        ) from error
    finally:
        root.setLevel(level)


def _rounded(model: onnx.ModelProto, *, layers_alone: bool = False) -> _How:
    """Operations whose inputs are rounded, as arguments of onnxruntime's quantiser.

    All that it knows, but in networks that add up to a sum which norms of each example
    or attention read: the norm brings up what is small in that sum and one scale rounds
    it away. ViT-tiny's outputs were off by 0.29 of what they vary by, and are by 0.04
    where layers with weights alone are rounded; they run 1.5 times as fast as float32,
    before 1.2. Networks of convolutions lose by it (MobileNetV2 1.2, all rounded 1.8).
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    of_two = []
    apart = []
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
        if node.op_type == "MatMul" and weights.isdisjoint(node.input):
            of_two.append(node.name)
        # onnxruntime's quantiser takes these groups' outputs for all of them.
        if node.op_type == "ConvTranspose" and attribute(node, "group", 1) > 1:
            apart.append(node.name)
        if any(name.startswith(SPECTRUM) for name in node.input):
            apart.append(node.name)
    norms = any(n.op_type in _NORMS for n in model.graph.node)
    if layers_alone or of_two or norms:
        return {
            "op_types_to_quantize": _LAYERS,
            "nodes_to_exclude": sorted({*of_two, *apart}),
        }
    return {"nodes_to_exclude": apart} if apart else {}


TARGET = Target(
    name="onnx-int8",
    suffix=".onnx",
    make=_make,
    reader="onnx",
    exact=False,
    calibrated=True,
    summary="packed int8 ONNX (static QDQ); needs --data",
)
