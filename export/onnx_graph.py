"""From a torch module to a clean dense ONNX graph: the exporter, quiet, then passes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Literal, TypeAlias

import onnx
import torch

from edge_sdk.errors import ExportError
from export.passes import run
from export.passes.canonical_zeros import CanonicalZeros
from export.passes.fold_batch_norm import FoldBatchNorm
from export.passes.fold_constants import FoldConstants
from export.passes.global_pool import GlobalPool
from export.passes.name_weights import NameWeights
from export.passes.remove_dead_channels import Kept, RemoveDeadChannels
from export.passes.strip_metadata import StripMetadata
from export.rebuild import Source

__all__ = ["OPSET", "Batch", "dense_graph"]

OPSET = 18  # the exporter's lowest, and the first with BitwiseAnd for the bitmask
_IR_VERSION = 8  # of opset 18 (onnx 1.13): onnxruntime reads it since 1.14

Batch: TypeAlias = Literal["1", "dynamic"]


def dense_graph(
    source: Source, *, batch: Batch = "1"
) -> tuple[onnx.ModelProto, list[str], Kept]:
    """The model as dense ONNX of opset 18, batch norms folded, metadata stripped.

    Args:
        source: The module to export.
        batch: "1" fixes the batch, which phone accelerators need (with a free batch
            NNAPI and Core ML take no node); "dynamic" leaves it free.

    Returns:
        The model, what the passes changed in words, and which channels were kept where
        some were removed.

    Raises:
        ExportError: If the module cannot be exported; carries the exporter's reason.
    """
    model = _exported(source, batch)
    removal = RemoveDeadChannels()
    model.ir_version = _IR_VERSION
    arrays = {
        name: tensor.numpy()
        for name, tensor in source.model.state_dict().items()
        if name in source.mask.layers
    }
    notes = run(
        model,
        (
            StripMetadata(),
            FoldConstants(),
            NameWeights(arrays),
            FoldBatchNorm(),
            CanonicalZeros(),
            GlobalPool(),
            removal,
        ),
    )
    return model, notes, removal.kept


def _exported(source: Source, batch: Batch) -> onnx.ModelProto:
    # A batch of 1 is specialised by the tracer, so a free batch is traced with 2.
    example = torch.zeros(1 if batch == "1" else 2, *source.input_shape)
    free = None if batch == "1" else ({0: torch.export.Dim("batch")},)
    printed = io.StringIO()
    try:
        with _quiet(printed):
            program = torch.onnx.export(
                source.model,
                (example,),
                input_names=["input"],
                output_names=["output"],
                dynamo=True,
                external_data=False,
                optimize=True,
                opset_version=OPSET,
                dynamic_shapes=free,
                verbose=False,
            )
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"torch could not export {source.task}: {type(error).__name__}: "
            f"{lines[0] if lines else printed.getvalue()[-200:]}",
            remedy="Every operation of the model must be traceable by torch.export.",
        ) from error
    if program is None:
        raise ExportError("torch.onnx.export gave no program; torch 2.6 or later does")
    proto = onnx.ModelProto()
    proto.CopyFrom(program.model_proto)
    opset = {o.domain: o.version for o in proto.opset_import}.get("", 0)
    if opset != OPSET:
        raise ExportError(f"the exporter wrote opset {opset}, not {OPSET}")
    return proto


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
