"""`permanent`: a plain copy of a module, whatever pruned or parametrised it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
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
    watched = _without_observers(copy)
    masks = _made_permanent(copy)
    _as_real_parts(copy)
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
    notes = [f"{others} weights are exported as float32"] if others else []
    if watched:
        notes.append(f"{watched} observers of quantisation are left out")
    return frozen(copy), patterns, tuple(notes)


def _without_observers(copy: nn.Module) -> int:
    """Takes out what measures or imitates rounding, and how many there were."""
    count = 0
    for module in list(copy.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, ObserverBase | FakeQuantizeBase):
                setattr(module, key, nn.Identity())
                count += 1
    return count


def _as_real_parts(copy: nn.Module) -> None:
    """Lets complex buffers be views of real ones, which a model file can hold."""
    for module in list(copy.modules()):
        own = [(n, b) for n, b in module.named_buffers(recurse=False) if b.is_complex()]
        for name, buffer in own:
            parts = f"{name}_parts"
            delattr(module, name)
            module.register_buffer(parts, torch.view_as_real(buffer).clone())
            view = property(partial(_complex_view, parts))
            kind = type(module)
            module.__class__ = type(kind.__name__, (kind,), {name: view})


def _complex_view(parts: str, module: nn.Module) -> torch.Tensor:
    return torch.view_as_complex(getattr(module, parts))


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
    weight = isinstance(tensor, nn.Parameter)
    if (tensor.is_complex() and weight) or tensor.layout is not torch.strided:
        kind = tensor.layout if tensor.layout is not torch.strided else tensor.dtype
        raise ExportError(
            f"{name}: {key} is {kind}, which has no form in a model file",
            remedy="Give dense tensors: a sparse one has .to_dense(), a complex one "
            "torch.view_as_real(...), of which forward takes torch.view_as_complex.",
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
