"""onnxruntime, wrapped once: quiet sessions, one thread, runs of any batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edge_sdk.errors import EdgeError, ExportError
from edge_sdk.infer.session_inputs import feeds

__all__ = [
    "Level",
    "folded_operators",
    "metadata",
    "open_session",
    "predict",
    "unpacked",
]

_FATAL = 4  # log severity: what goes wrong comes as an exception, not on stderr


Level: TypeAlias = Literal["none", "extended", "all"]


def _options(*, optimise: Level, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = {
        "none": level.ORT_DISABLE_ALL,
        "extended": level.ORT_ENABLE_EXTENDED,
        "all": level.ORT_ENABLE_ALL,
    }[optimise]
    return options


def open_session(
    model: bytes | str, *, optimise: Level = "all", threads: int = 1
) -> ort.InferenceSession:
    """A CPU session on a file's bytes or path.

    Raises:
        ExportError: If onnxruntime refuses the model; carries its reason.
    """
    try:
        return ort.InferenceSession(
            model,
            _options(optimise=optimise, threads=threads),
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:
        raise ExportError(
            f"onnxruntime {ort.__version__} does not load the model: {error}",
            remedy="pip install -U onnxruntime: packed models need 1.15, .ort 1.16.",
        ) from error


def predict(
    session: ort.InferenceSession, batch: NDArray[Any] | Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    """Outputs for n inputs, float32 (n, ...); one by one where the batch is fixed.

    Several outputs are one after the other, flat: (n, values). A model of several
    inputs takes an array for each, or rows of all, which are taken apart.

    Raises:
        ExportError: If onnxruntime fails on them, or the model is none of ours; carries
            the reason.
    """
    try:
        return _predict(session, batch)
    except EdgeError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise ExportError(
            f"onnxruntime {ort.__version__} does not run the model: {said[:400]}",
            remedy="Build the file again; inputs are as the model took them then.",
        ) from error


def _predict(
    session: ort.InferenceSession, batch: NDArray[Any] | Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    spec = session.get_inputs()[0]
    given = feeds(session, batch)
    count = len(given[spec.name])
    step = spec.shape[0] if isinstance(spec.shape[0], int) else 64
    if step == 1 or count % step == 0 or not isinstance(spec.shape[0], int):
        parts = [
            _joined(session.run(None, {n: a[at : at + step] for n, a in given.items()}))
            for at in range(0, count, step)
        ]
        return np.concatenate(parts)
    raise ExportError(f"the model takes batches of {step}; {count} inputs do not fit")


def _joined(outputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    if len(outputs) == 1:
        return outputs[0].astype(np.float32, copy=False)
    flat = [output.reshape(len(output), -1) for output in outputs]
    return np.concatenate(flat, axis=1).astype(np.float32, copy=False)


def metadata(session: ort.InferenceSession) -> dict[str, str]:
    """The custom metadata as onnxruntime reads it."""
    return dict(session.get_modelmeta().custom_metadata_map)


def folded_operators(model: bytes) -> dict[str, int]:
    """Operators that are left after onnxruntime's optimiser, with their counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = _options(optimise="all", threads=1)
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(
                f"onnxruntime does not load the model: {error}"
            ) from error
        optimised = onnx.load(path)
    counts: dict[str, int] = {}
    for node in optimised.graph.node:
        key = f"{node.domain or 'ai.onnx'}:{node.op_type}"
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


def unpacked(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Values of constants and of tensors computed from constants alone, by name.

    They are computed by onnxruntime without any optimisation, as an independent reader
    of the packed form.
    """
    stored = {i.name: i for i in model.graph.initializer}
    result = {
        name: onnx.numpy_helper.to_array(stored[name])
        for name in names
        if name in stored
    }
    made = [name for name in names if name not in stored]
    if not made:
        return result
    part = _constant_part(model, made)
    session = open_session(part.SerializeToString(), optimise="none")
    try:
        return result | dict(zip(made, session.run(made, {}), strict=True))
    except Exception as error:
        raise ExportError(
            f"onnxruntime does not unpack the weights: {' '.join(str(error).split())}",
            remedy="Build the file again.",
        ) from error


def _constant_part(model: onnx.ModelProto, wanted: Sequence[str]) -> onnx.ModelProto:
    """A model without inputs that computes the wanted tensors.

    Raises:
        ExportError: If one is not in the graph, or depends on the input.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    stored = {i.name: i for i in model.graph.initializer}
    nodes: dict[int, onnx.NodeProto] = {}
    used: set[str] = set()
    stack = list(wanted)
    while stack:
        name = stack.pop()
        if not name or name in used:
            continue
        used.add(name)
        if name in stored:
            continue
        if name not in makers:
            raise ExportError(f"the graph has no constant tensor {name!r}")
        node = makers[name]
        nodes[id(node)] = node
        stack.extend(node.input)
    ordered = [node for node in model.graph.node if id(node) in nodes]
    outputs = []
    for name in wanted:
        info = onnx.ValueInfoProto()
        info.name = name
        outputs.append(info)
    graph = onnx.helper.make_graph(
        ordered, "constants", [], outputs, [stored[n] for n in used if n in stored]
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
