"""`permanent`: a plain copy of a module, whatever pruned or parametrised it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import (
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
)
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edge_sdk.errors import ExportError
from edge_sdk.torch_modules.copying import copy_model
from export.rebuild import frozen

__all__ = ["Pattern", "permanent"]

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Pattern = NDArray[np.bool_]


def permanent(
    model: nn.Module, name: str
) -> tuple[nn.Module, dict[str, Pattern], tuple[str, ...]]:
    """A frozen float32 copy on the CPU, its patterns, and notes.

    Args:
        model: Stays as it is.
        name: What it is called in messages.

    Returns:
        The copy; weight name to what is kept of each convolution and linear layer; what
        was done, in words.

    Raises:
        ExportError: If it cannot be copied, or a tensor of it holds no numbers.
    """
    for key, tensor in _tensors(model):
        _check_form(name, key, tensor)
    try:
        copy = copy_model(model).cpu()
    except Exception as error:
        raise ExportError(
            f"{name} cannot be copied: {type(error).__name__}: {error}",
            remedy="Take what is no tensor or plain value (a lock, an open file) out "
            "of its attributes.",
        ) from error
    masks = _made_permanent(copy)
    kinds = {str(t.dtype).removeprefix("torch.") for _, t in _floats(copy)}
    copy = copy.float()
    for key, tensor in _floats(copy):
        _check_values(name, key, tensor)
    patterns = {}
    state = copy.state_dict()
    for prefix, module in copy.named_modules():
        key = f"{prefix}.weight" if prefix else "weight"
        if isinstance(module, _KINDS) and key in state:
            patterns[key] = masks.get(key, state[key].numpy() != 0)
    others = ", ".join(sorted(kinds - {"float32"}))
    notes = (f"{others} weights are exported as float32",) if others else ()
    return frozen(copy), patterns, notes


def _check_form(name: str, key: str, tensor: torch.Tensor) -> None:
    if nn.parameter.is_lazy(tensor):
        raise ExportError(
            f"{name}: {key} has no shape before the first batch",
            remedy="Call the model once on an example, then export it.",
        )
    if tensor.is_meta:
        raise ExportError(
            f"{name}: {key} has no values (it is on the device meta)",
            remedy="Load the weights onto the CPU first: "
            "model.to_empty(device='cpu'), then load_state_dict.",
        )
    if tensor.is_complex() or tensor.layout is not torch.strided:
        kind = tensor.dtype if tensor.is_complex() else tensor.layout
        raise ExportError(
            f"{name}: {key} is {kind}, which has no form in a model file",
            remedy="Give real dense tensors; a sparse one has .to_dense().",
        )


def _check_values(name: str, key: str, tensor: torch.Tensor) -> None:
    """Refuses NaN anywhere; a buffer may hold infinities, as attention masks do."""
    bad = (
        ~torch.isfinite(tensor) if isinstance(tensor, nn.Parameter) else tensor.isnan()
    )
    if bad.any():
        raise ExportError(
            f"{name}: {int(bad.sum())} of {tensor.numel()} values of {key} are NaN or "
            "infinite",
            remedy="Train again with a smaller rate, or load a sound checkpoint.",
        )


def _made_permanent(copy: nn.Module) -> dict[str, Pattern]:
    """Makes weights plain parameters in place: pruned to zero, not times a mask.

    Returns:
        What ``torch.nn.utils.prune`` kept of each: a kept weight may be 0.
    """
    copy.eval()  # spectral norm takes a step per look in training
    kept: dict[str, Pattern] = {}
    for prefix, module in list(copy.named_modules()):
        for hook in list(module._forward_pre_hooks.values()):  # noqa: SLF001 - torch's own way
            if isinstance(hook, prune.BasePruningMethod):
                weight = hook._tensor_name  # noqa: SLF001
                mask = getattr(module, f"{weight}_mask") != 0
                key = f"{prefix}.{weight}" if prefix else weight
                kept[key] = mask.numpy()
                with torch.no_grad():  # NaN times 0 would stay
                    getattr(module, f"{weight}_orig")[~mask] = 0
                prune.remove(module, weight)  # type: ignore[no-untyped-call]
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
        if parametrize.is_parametrized(module):
            _own_class(module)
            for name in list(cast("nn.ModuleDict", module.parametrizations)):
                parametrize.remove_parametrizations(module, name)
        _plain_parameter(module)
    return kept


def _plain_parameter(module: nn.Module) -> None:
    """Makes a layer's weight a parameter where it is a mere attribute, or a buffer.

    So it is where pruning's hook was cleared and not removed: what the layer computes
    with then is the attribute, and what pruning left beside it goes.
    """
    own = vars(module)
    buffers, parameters = own["_buffers"], own["_parameters"]
    weight = own.get("weight", buffers.get("weight"))
    if not isinstance(module, _KINDS) or not isinstance(weight, torch.Tensor):
        return
    for name in ("weight_orig", "weight_mask", "weight"):
        if name in own or name in buffers or name in parameters:
            delattr(module, name)
    module.register_parameter("weight", nn.Parameter(weight.detach().clone()))


def _own_class(module: nn.Module) -> None:
    """A parametrized module's class is made for it, and torch's copies share it.

    Removing a parametrization takes a property off the class: of the original, too.
    """
    kind = type(module)
    body = {k: v for k, v in vars(kind).items() if k not in {"__dict__", "__weakref__"}}
    module.__class__ = type(kind.__name__, kind.__bases__, body)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _floats(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        (k, t.detach() if not isinstance(t, nn.Parameter) else t)
        for k, t in _tensors(model)
        if t.is_floating_point()
    ]
