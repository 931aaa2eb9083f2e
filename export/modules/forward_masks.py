"""Masks that a module multiplies its weights with by itself, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from edge_sdk.sparse import Mask

__all__ = ["with_forward_masks"]


def with_forward_masks(
    model: nn.Module, mask: Mask, outputs: Callable[[], list[torch.Tensor]]
) -> Mask:
    """The mask, with that of layers like ``F.linear(x, self.weight * self.mask)``.

    Such a layer holds a tensor of zeros and ones of its weight's shape. It is believed
    if no output changes when the weights that it has 0 for are zero; these stay zero.

    Args:
        model: A plain copy, which may be changed.
        mask: What is known: of pruning hooks and zeros.
        outputs: Runs the model on the same inputs.
    """
    found = {
        name: torch.from_numpy(mask[name].copy()) & keep
        for name, keep in _held(model, mask)
    }
    if not found:
        return mask
    before = outputs()
    weights = {name: model.get_parameter(name) for name in found}
    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, keep in found.items():
            weights[name][~keep] = 0
        same = all(map(torch.equal, before, outputs()))
        if not same:
            for name, weight in weights.items():
                weight.copy_(saved[name])
            return mask
    known = {name: mask[name] for name in mask}
    return Mask(known | {name: keep.numpy() for name, keep in found.items()})


def _held(model: nn.Module, mask: Mask) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights with a tensor beside them that could be their mask."""
    for prefix, module in model.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        weight = getattr(module, "weight", None)
        if name not in mask or not isinstance(weight, nn.Parameter):
            continue
        held = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        held += [v for v in vars(module).values() if isinstance(v, torch.Tensor)]
        for tensor in held:
            if tensor is not weight and tensor.shape == weight.shape:
                keep = tensor.detach() != 0
                if bool((~keep).any()) and bool((tensor == keep).all()):
                    yield name, keep
