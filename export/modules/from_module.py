"""`from_module`: any torch module, pruned by any tool, as what can be exported."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_sdk.datasets.rows import rows_of
from edge_sdk.errors import ExportError, TaskError, a_type
from edge_sdk.infer.input_parts import InputPart
from edge_sdk.sparse import Mask
from edge_sdk.tasks.user_errors import told
from export.checks.outputs import outputs_of
from export.modules.arguments import are_several, given_of
from export.modules.forward_masks import with_forward_masks
from export.modules.given_inputs import MOST, inputs_of
from export.modules.permanent import permanent
from export.modules.several_inputs import SeveralInputs, take_joined
from export.modules.shapes import InputShape, checked_shape, one_shape
from export.rebuild import Source

__all__ = ["from_module"]

_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.q")
# What torch's quantisation replaces with quantised ones later.
_FLOATS = {"FloatFunctional", "FXFloatFunctional"}
_OTHER_DTYPE = re.compile(r"(same|different) dtype|expected scalar type")
_TRIED = 3  # examples: an axis of 3 is hardly one of the model's own


def from_module(
    model: nn.Module,
    input_shape: InputShape | None = None,
    *,
    name: str = "model",
    labels: Sequence[str] = (),
    calibration: Any = None,
) -> Source:
    """Any torch model; the module given stays as it is.

    The mask of a layer is the one that ``torch.nn.utils.prune`` still applies to it,
    else the weight's zeros. Pruning and other parametrizations are made permanent in a
    copy, which is in evaluation mode, on the CPU and in float32.

    Args:
        model: In any mode, dtype and place; may be compiled or data-parallel.
        input_shape: One example without the batch axis; None takes that of
            `calibration`. Of several inputs a shape for each, in order or by name.
        name: What it is called in reports and files.
        labels: Class names in the order of the outputs.
        calibration: Prepared inputs, perhaps with targets: see `rows_of`; of several
            inputs see `SeveralInputs`.

    Raises:
        ExportError: If it is no module, holds no numbers, or takes no such input.
        DataError: If `calibration` holds no inputs of that shape.
    """
    found = _inner(model, name)
    several, calibration = None, given_of(found, calibration)
    if are_several(found, input_shape, calibration):
        several = SeveralInputs(found, input_shape, calibration, name, MOST)
    else:
        _check_forward(found, name)
    copied, masks, notes = permanent(found, name)
    parts: tuple[InputPart, ...] = ()
    if several is not None:
        parts = several.parts(copied)
        rows = several.rows(parts, MOST)
        take_joined(copied, parts, name)
        shape = checked_shape(sum(part.size for part in parts))
    else:
        rows = None
        if calibration is not None:
            rows = rows_of(calibration, "calibration", most=MOST)
        shape = one_shape(input_shape, rows, name)
    names = _labels(labels, name)
    source = Source(
        copied, Mask(masks), shape, name, labels=names, notes=notes, parts=parts
    )
    if rows is not None:
        source = replace(source, given=inputs_of(source, *rows))
    _check_outputs(source)
    mask = with_forward_masks(copied, source.mask, partial(_outputs, source))
    return replace(source, mask=mask)


def _inner(model: object, name: str) -> nn.Module:
    """The module itself, out of what compiles it or spreads it over devices."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            break
    if isinstance(model, nn.Module):
        _check_python(model, name)
        return model
    what, remedy = a_type(model), "Give a torch.nn.Module."
    if isinstance(model, type):
        what, remedy = f"the class {model.__name__}", f"Call it: {model.__name__}()."
    elif isinstance(model, torch.export.ExportedProgram):
        remedy = "Give the nn.Module that it was made from."
    elif isinstance(model, dict):
        remedy = "Make the module, and load the weights: model.load_state_dict(...)."
    elif hasattr(model, "model") and hasattr(model, "history"):
        remedy = "Give the model of one density: run.model(0.1)."
    elif callable(model):
        remedy = "Wrap the function into the forward of a torch.nn.Module."
    raise ExportError(f"{name} is {what}, not a torch.nn.Module", remedy=remedy)


def _check_python(model: nn.Module, name: str) -> None:
    for key, part in model.named_modules():
        kind = type(part)
        if kind.__module__.startswith(_QUANTISED) and kind.__name__ not in _FLOATS:
            raise ExportError(
                f"{name}{key and f': {key}'} is a quantised {kind.__name__}, "
                "whose weights are no floats any more",
                remedy="Give the model before torch quantised it, and take a format "
                "that rounds: onnx-int8, onnx-fp16, native-int8.",
            )
        if isinstance(part, nn.LSTM) and part.proj_size:
            raise ExportError(
                f"{name}{key and f': {key}'} is an LSTM with a projection (proj_size="
                f"{part.proj_size}), which has no form in a model file",
                remedy="Take an LSTM without one and a Linear layer behind it, or "
                "write its steps out, each with a Linear layer.",
            )
        if isinstance(part, torch.jit.ScriptModule):
            raise ExportError(
                f"{name}{key and f': {key}'} is TorchScript, whose Python code is gone",
                remedy="Give the nn.Module that it was made from.",
            )
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        raise ExportError(
            f"{name}: {a_type(model)} has no forward of its own",
            remedy="Give the module whose forward calls these parts; nn.Sequential "
            "calls them in turn.",
        )


def _check_forward(model: nn.Module, name: str) -> None:
    """Refuses a forward that cannot be called with one batch of inputs."""
    try:
        parameters = signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return
    places = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    needed = [
        p.name
        for p in parameters
        if p.default is Parameter.empty and p.kind in {*places, Parameter.KEYWORD_ONLY}
    ]
    takes = any(p.kind in {*places, Parameter.VAR_POSITIONAL} for p in parameters)
    if len(needed) > 1 or not takes:
        said = ", ".join(needed) or "nothing"
        raise ExportError(
            f"{name}: its forward takes {said}; one input was given",
            remedy="Give input_shape a shape for each, ((3, 32, 32), (16,)); of a "
            "command --input-shape '3,32,32;16'.",
        )


def _labels(given: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise ExportError(
            f"{name}: labels is {a_type(given)}, not a list of class names",
            remedy="Give one name per class, in the order of the outputs.",
        )
    return tuple(map(str, given))


def _check_outputs(source: Source) -> None:
    """Runs the model once: it takes such inputs, and gives a row per example.

    Raises:
        ExportError: With the model's own reason.
    """
    name, shape = source.task, source.input_shape
    try:
        outputs, again = _outputs(source), _outputs(source)
    except (Exception, SystemExit) as error:
        reason = error.__cause__ or error if isinstance(error, TaskError) else error
        raise ExportError(
            f"{name} takes no batch of inputs of shape {shape}: {told(reason)}",
            remedy=_advice(source, str(reason)),
        ) from error
    if not outputs:
        raise ExportError(
            f"{name}: its forward gives no tensor",
            remedy="Let forward return a tensor, or a tuple or dictionary of tensors.",
        )
    for number, output in enumerate(outputs):
        if not output.dim() or len(output) != _TRIED:
            raise ExportError(
                f"{name}: output {number} of {len(outputs)} has shape "
                f"{tuple(output.shape)} for {_TRIED} examples, not one row each",
                remedy="Wrap it in a module whose forward returns only outputs with "
                "the batch as first axis (of an LSTM, the first of what it returns, "
                "with batch_first=True).",
            )
        if not output.numel():
            raise ExportError(
                f"{name}: output {number} of {len(outputs)} has shape "
                f"{tuple(output.shape)} for {_TRIED} examples, which holds no values",
                remedy="Wrap it in a module whose forward returns only outputs that "
                "hold something.",
            )
        if output.is_complex():
            raise ExportError(
                f"{name}: output {number} of {len(outputs)} is {output.dtype}, which "
                "has no form in a model file",
                remedy="Return torch.view_as_real(...) of it, or its real part.",
            )
        if not _close(output, again[number]):
            raise ExportError(
                f"{name}: output {number} of {len(outputs)} is another one each time, "
                "for the same inputs",
                remedy="Take random numbers, dropout that is always on and counters "
                "out of forward; F.dropout needs training=self.training.",
            )
    rows, count = outputs[0].shape, len(source.labels)
    if count and len(outputs) == 1 and len(rows) > 1 and rows[1] != count:
        raise ExportError(
            f"{name}: {count} labels, but outputs of {rows[1]} classes",
            remedy="Give one label per class, in the order of the outputs.",
        )


def _outputs(source: Source) -> list[torch.Tensor]:
    """Outputs for a few examples, the same each time."""
    return outputs_of(source.model, source.example(_TRIED).numpy())


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare two outputs: True if they differ by no more than rounding."""
    if one.shape != other.shape:
        return False
    wide = torch.float64 if not one.is_complex() else torch.complex128
    scale = float(one.to(wide).abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(
        one.to(wide), other.to(wide), rtol=1e-3, atol=1e-3 * scale, equal_nan=True
    )


def _advice(source: Source, reason: str = "") -> str:
    """A suggestion of what to give, for an error."""
    shape = source.input_shape
    if _OTHER_DTYPE.search(reason):
        return (
            "Weights and inputs are float32 when a model is exported: take casts such "
            "as .double() and .half() out of forward, or write .to(weight.dtype)."
        )
    with contextlib.suppress(Exception, SystemExit):
        outputs_of(source.model, np.zeros((1, *shape), np.float32))
        return (
            "It takes one example at a time alone: let forward take the batch as it "
            "comes, x.reshape(len(x), ...); of an exported program free its batch by "
            "dynamic_shapes, or give the module that it was made from."
        )
    with contextlib.suppress(TypeError, ValueError):
        others = [
            str(p.replace(annotation=Parameter.empty, default=Parameter.empty))
            for p in list(signature(source.model.forward).parameters.values())[1:]
        ]
        if others:
            return (
                f"forward also takes {', '.join(others)}, which nobody gave: give "
                "input_shape a shape for each tensor, ((3, 32, 32), (16,)), wrap the "
                "module in one that gives the rest; or correct input_shape."
            )
    if len(shape) > 1:
        try:
            replace(source, input_shape=shape[1:], given=None).example(_TRIED)
        except (Exception, SystemExit):  # noqa: BLE001, S110 - own code
            pass
        else:
            return f"Leave the batch axis out: input_shape={shape[1:]}."
    return (
        "Give input_shape as the shape of one example without the batch axis; "
        "calibration= takes inputs where made-up ones do not fit."
    )
