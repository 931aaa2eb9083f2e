"""`native` and `native-int8`: one file for our own sparse runtime."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.native.fileformat import Encoding, store_weights, write
from export.native.fuse import fuse
from export.native.input_scales import InputScales, measure, round_inputs, with_scales
from export.native.lower import lower
from export.native.program import Program
from export.native.views import join_moves
from export.passes.graph import RECURRENT, attribute, replace_array
from export.targets import Material, Product, Target

__all__ = ["INT8", "TARGET"]


def _facts(material: Material, name: str, program: Program) -> dict[str, Any]:
    facts: dict[str, Any] = dict(material.facts)
    for key in ("labels", "input_shape", "metrics", "density", "mac_density", "macs"):
        facts[key] = json.loads(facts[key])
    facts["round"] = int(facts["round"])
    for key in {"inputs", "outputs"} & facts.keys():
        facts[key] = json.loads(facts[key])
    return {**facts, "format": name, "output_shape": list(program.output_shape)}


def _make(material: Material, *, int8: bool) -> Product:
    name = "native-int8" if int8 else "native"
    material = material.of_one_row()
    program = fuse(lower(material.copy(), material.layers))
    personal = material.source.personal_values()
    if not personal:  # a norm of a device's own may be a single factor, as it began
        program = join_moves(program)
    facts = _facts(material, name, program)
    scales = _input_scales(material, program) if int8 else {}
    if scales:
        program = with_scales(program, scales)
        facts["input_scales"] = {key: list(pair) for key, pair in scales.items()}
    content = write(program, facts, int8=int8, personal=personal)
    stored = store_weights(program, int8=int8)
    model = material.copy()
    if int8:
        _round(model, program, [item.scales for item in stored])
        round_inputs(model, scales)
    sparse = sum(item.encoding is Encoding.GAPS for item in stored)
    notes = [f"{sparse} sparse, {len(stored) - sparse} dense"]
    if int8:
        notes.append(f"{len(scales)} layers computed in int8")
    return Product(content, model, None, tuple(notes))


def _input_scales(material: Material, program: Program) -> InputScales:
    """Scales of a file that is built again, or measured where there are examples."""
    if material.input_scales is not None:
        return material.input_scales
    if material.calibration is None:
        return {}
    return measure(material.dense, program, material.calibration.batch)


def _round(
    model: onnx.ModelProto, program: Program, scales: Sequence[NDArray[np.float32]]
) -> None:
    """Gives each layer of the graph the weights that int8 storage gives back.

    By the scales that the file has: lowering leaves out weights that only ever read
    padding, which may be the largest. Layers that share a weight may have several.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    plain = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    users = Counter(weight.layer for weight in program.weights)
    parts: Counter[str] = Counter()  # of a recurrent layer: two for each way
    for weight, scale in zip(program.weights, scales, strict=True):
        node = makers.get(weight.output)
        if node is None:
            continue
        if node.op_type in RECURRENT:
            way, part = divmod(parts[weight.output], 2)
            parts[weight.output] += 1
            name = f"{weight.output} {'states' if part else 'inputs'}"
            array = plain.setdefault(name, plain[weight.layer].copy())
            if scale.size:
                array[way] = _back(array[way], scale[:, None])
            node.input[1 + part] = name
            replace_array(model, name, array)
            continue
        name, array = weight.layer, plain[weight.layer]
        if users[name] > 1:
            at = 0 if node.op_type == "Gather" else 1
            name = node.input[at] = f"{weight.layer} of {weight.output}"
            replace_array(model, name, array)
        if not scale.size:
            continue
        back = _stored(array, node, scale)
        replace_array(model, name, back)


def _back(
    values: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Values as int8 by these scales gives them back."""
    found: NDArray[np.float32] = (
        np.clip(np.rint(values / scale), -127, 127).astype(np.float32) * scale
    )
    return found


def _stored(
    array: NDArray[np.float32], node: onnx.NodeProto, scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A weight rounded by the scales of its outputs, wherever its axes have them."""
    by_column = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not attribute(node, "transB", 0)
    )
    if node.op_type == "ConvTranspose":  # (inputs, outputs of a group, window)
        groups = int(attribute(node, "group", 1))
        seen = array.reshape(groups, -1, *array.shape[1:])
        each = scale.reshape(groups, 1, array.shape[1], *[1] * (array.ndim - 2))
    else:
        seen = array.T if by_column else array  # of a table rows have them
        each = scale.reshape(-1, *[1] * (seen.ndim - 1))
    back = _back(seen, each)
    stored: NDArray[np.float32] = back.T if by_column else back.reshape(array.shape)
    return stored


TARGET = Target(
    name="native",
    suffix=".flsp",
    make=lambda material: _make(material, int8=False),
    reader="native",
    exact=True,
    calibrated=False,
    summary="fp32 values for our own runtime: fastest, no dependency",
)
INT8 = Target(
    name="native-int8",
    suffix=".flsp",
    make=lambda material: _make(material, int8=True),
    reader="native",
    exact=False,
    calibrated=False,
    summary="int8 values for our own runtime: smallest; with --data computed in int8",
)
