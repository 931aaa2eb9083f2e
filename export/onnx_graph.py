"""Export of a torch module to a clean dense ONNX graph: the exporter, then passes."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import onnx
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edge_sdk.errors import ExportError
from edge_sdk.infer.input_parts import apart_inputs
from edge_sdk.tasks.trial_step import tensors_of
from export.checks.outputs import Tensors
from export.modules.exporter_errors import advice_for, reason_of
from export.modules.torch_bags import BAGS
from export.modules.torch_cells import CELLS
from export.modules.torch_more import MORE
from export.modules.torch_pools import POOLS
from export.modules.torch_rnn import TRANSLATIONS
from export.passes import run
from export.passes.canonical_zeros import CanonicalZeros
from export.passes.fold_batch_norm import FoldBatchNorm
from export.passes.fold_constants import FoldConstants
from export.passes.global_pool import GlobalPool
from export.passes.graph import rename
from export.passes.loops import JoinSteps
from export.passes.name_weights import TRANSPOSED, NameWeights
from export.passes.remove_dead_channels import Kept, RemoveDeadChannels
from export.passes.spectra import SpectraAsProducts
from export.passes.strip_metadata import StripMetadata
from export.rebuild import Source

__all__ = ["OPSET", "Batch", "Dense", "dense_graph", "input_names"]

OPSET = 18  # the exporter's lowest, and the first with BitwiseAnd for the bitmask
_INNER = "model."  # before the names of a module that `Tensors` holds
_NO_LAYER = "_empty_nn_module_stack"  # the exporter's word for none
_IR_VERSION = 8  # of opset 18 (onnx 1.13): onnxruntime reads it since 1.14

Batch: TypeAlias = Literal["1", "dynamic"]
Translations: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]


_TRANSLATIONS: Translations = {**TRANSLATIONS, **POOLS, **MORE, **BAGS}


@dataclass(frozen=True, eq=False)
class Dense:
    """The model as dense ONNX of opset 18, batch norms folded, metadata stripped.

    Attributes:
        model: The graph; a masked weight has its layer's name.
        notes: What was changed, in words.
        kept: Which channels stayed where some were removed.
        left_out: Masked weights that the graph does not hold, each with the reason.
        layers: Names of values to the module that computes each, as in `model`.
    """

    model: onnx.ModelProto
    notes: list[str]
    kept: Kept
    left_out: Mapping[str, str]
    layers: Mapping[str, str]


def dense_graph(
    source: Source, *, batch: Batch = "1", data: Path | None = None
) -> Dense:
    """The evaluation graph of a module.

    Args:
        source: The module to export.
        batch: "1" fixes the batch, which phone accelerators need (with a free batch
            NNAPI and Core ML take no node); "dynamic" leaves it free.
        data: Folder with evaluation examples, should the model take nothing else.

    Raises:
        ExportError: If the module cannot be exported; carries the exporter's reason.
    """
    dense, unjoined = _dense(source, batch, data, CELLS)
    if not unjoined:
        return dense
    whole, _ = _dense(source, batch, data, {})
    reasons = ", ".join(sorted(set(unjoined.values())))
    note = f"{len(unjoined)} loops over a recurrent cell stay written out: {reasons}"
    return replace(whole, notes=[*whole.notes, note])


def _dense(
    source: Source, batch: Batch, data: Path | None, cells: Translations
) -> tuple[Dense, Mapping[str, str]]:
    """The graph, and why loops over these cells are not one operation each."""
    names = source.shared()
    same = {layer: names[layer] for layer in source.mask}
    layers = sorted(set(same.values()))
    masked = {n: first for n, first in names.items() if first in layers}
    model = _exported(source, batch, data, masked, cells)
    inside = _layers(model)
    _check_floats(model, inside, source.task)
    removal, naming, joining = RemoveDeadChannels(), NameWeights(layers), JoinSteps()
    model.ir_version = _IR_VERSION
    notes = run(
        model,
        (
            StripMetadata(),
            naming,
            FoldConstants(),
            joining,
            FoldBatchNorm(),
            CanonicalZeros(),
            GlobalPool(),
            removal,
            SpectraAsProducts(),
        ),
    )
    held = {tensor.name for tensor in model.graph.initializer}
    left_out = {
        layer: "no output of the model in evaluation depends on it"
        if first in naming.unused
        else "the graph holds it only as a part of other constants"
        for layer, first in same.items()
        if not held & {first, first + TRANSPOSED}
    }
    if same and naming.unused.issuperset(same.values()):
        raise ExportError(
            f"no masked weight of {source.task} is in its evaluation graph",
            remedy="Check what the model's forward() does after eval().",
        )
    return Dense(model, notes, removal.kept, left_out, inside), joining.unjoined


def _layers(model: onnx.ModelProto) -> dict[str, str]:
    """Names of values to the module that computes each, as the exporter notes it."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        for item in node.metadata_props:
            if item.key == "pkg.torch.onnx.name_scopes":
                scopes = ast.literal_eval(item.value)[:-1]  # the last: the operation
                layer = scopes[-1].removeprefix(_INNER) if scopes else ""
                layer = "" if layer.startswith(_NO_LAYER) else layer
                found |= dict.fromkeys(node.output, layer)
    return found


def _check_floats(model: onnx.ModelProto, inside: Mapping[str, str], name: str) -> None:
    """Refuses a forward that computes in bfloat16, which no runtime of files does."""
    short = onnx.TensorProto.BFLOAT16
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == short:
            layer = inside.get(node.output[0], "")
            where = f" in layer {layer}" if layer else ""
            raise ExportError(
                f"{name}: its forward computes in bfloat16{where}",
                remedy="Take torch.autocast and casts to bfloat16 out of forward: put "
                "them around the call where the model trains.",
            )


def _exported(
    source: Source,
    batch: Batch,
    data: Path | None,
    names: Mapping[str, str],
    cells: Translations,
) -> onnx.ModelProto:
    # A batch of 1 is specialised by the tracer, so a free batch is traced with 2.
    example = source.example(1 if batch == "1" else 2, data)
    with torch.no_grad():
        found = source.model(example.clone())
    count = len(tensors_of(found))
    model: nn.Module = source.model
    masked = set(names)
    given: tuple[torch.Tensor, ...] = (example,)
    inputs: list[str] = ["input"]
    free: tuple[Any, ...] = ({0: torch.export.Dim("batch")},)
    if source.parts:
        apart = apart_inputs(example.numpy(), source.parts)
        given = tuple(map(torch.from_numpy, apart.values()))
        inputs, free = input_names(source), (free * len(given),)
    plain = all(isinstance(leaf, torch.Tensor | None) for leaf in tree_leaves(found))
    if source.parts or not plain:
        model, masked = Tensors(model), {f"{_INNER}{name}" for name in names}
        state = source.model.state_dict(keep_vars=True)
        names = {f"{_INNER}{name}": names.get(name, name) for name in state}
    stem = "output" if not any(n.startswith("output") for n in inputs) else "result"
    outputs = [stem] if count == 1 else [f"{stem}_{i}" for i in range(count)]
    printed = io.StringIO()
    try:
        with _quiet(printed):
            program = torch.onnx.export(
                model,
                given,
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                external_data=False,
                optimize=False,
                opset_version=OPSET,
                dynamic_shapes=None if batch == "1" else free,
                custom_translation_table={**_TRANSLATIONS, **cells},
                verbose=False,
            )
            if program is not None:
                _optimise(program, masked)
    except Exception as error:
        with _quiet(printed):
            reason = reason_of(error, model, *given)
        raise ExportError(
            f"torch could not export {source.task}: {reason}",
            remedy=advice_for(reason),
        ) from error
    if program is None:
        raise ExportError("torch.onnx.export gave no program; torch 2.6 or later does")
    proto = onnx.ModelProto()
    proto.CopyFrom(program.model_proto)
    rename(proto, names)
    opset = {o.domain: o.version for o in proto.opset_import}.get("", 0)
    if opset != OPSET:
        raise ExportError(f"the exporter wrote opset {opset}, not {OPSET}")
    return proto


def input_names(source: Source) -> list[str]:
    """Names of several inputs in the graph: those of forward's arguments.

    One that a weight has, too, is told apart: a graph has each name once.
    """
    held = source.model.state_dict()
    return [f"{p.name}_input" if p.name in held else p.name for p in source.parts]


def _optimise(program: torch.onnx.ONNXProgram, names: Container[str]) -> None:
    """Runs the exporter's optimiser, which leaves the masked weights as they are.

    It merges initializers of equal bytes, copies of a layer or layers emptied by
    pruning, and folds others away. What is an input as well is not constant to it.
    """
    graph = program.model.graph
    held = {n: v for n, v in graph.initializers.items() if n in names}
    graph.inputs.extend(held.values())
    program.optimize()
    rest = [v for v in program.model.graph.inputs if v.name not in held]
    del program.model.graph.inputs[:]
    program.model.graph.inputs.extend(rest)


@contextlib.contextmanager
def _quiet(printed: io.StringIO) -> Iterator[None]:
    """Holds back what the exporter prints, logs and warns."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    children = [
        logging.getLogger(name)
        for name in logging.root.manager.loggerDict
        if name.startswith("torch.onnx")
    ]
    levels += [logger.level for logger in children]
    for logger in (*loggers, *children):
        logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip((*loggers, *children), levels, strict=True):
            logger.setLevel(level)
