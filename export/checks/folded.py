"""Adapters and weight norm folded into a model's layers, and the check of adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import ExportError
from edge_sdk.sparse import Mask
from edge_sdk.tasks.parts.adapted_model import is_adapter
from edge_sdk.tasks.parts.low_rank import fold_adapters
from edge_sdk.torch_modules.weight_norm import fold_directions

__all__ = ["folded", "without_norms"]

_LIMIT = 1e-4  # of the largest output; float32 sums in another order differ by 1e-6


def folded(
    name: str,
    model: nn.Module,
    mask: Mask,
    ranks: Mapping[str, int],
    predict: Callable[[], NDArray[np.float32]],
) -> tuple[Mask, str]:
    """The mask of a model whose adapters are folded in place, and a note of it.

    Args:
        name: What the model is called in messages.
        model: With adapters; plain afterwards, its adapted layers dense.
        mask: Of the model with adapters.
        ranks: Name of a layer to its adapter's rank.
        predict: Gives the model's outputs on the same inputs, before and after.

    Raises:
        ExportError: If the model's outputs are others then.
    """
    before = predict()
    layers = fold_adapters(model)
    limit = _LIMIT * max(1.0, float(np.abs(before).max(initial=0.0)))
    error = float(np.abs(predict() - before).max(initial=0.0))
    if not error <= limit:
        raise ExportError(
            f"{name} computes something else with its adapters folded into "
            f"{', '.join(layers[:4])}: outputs differ by {error:.2g}, {limit:.2g} is "
            "allowed",
            remedy="Leave layers whose weight the model's code uses by itself out of "
            "adapters.on.",
        )
    state = model.state_dict()
    kept = {n: mask[n] for n in mask if not is_adapter(n, ranks)}
    kept |= {n: np.ones(tuple(state[n].shape), np.bool_) for n in layers}
    note = f"adapters are folded into {len(layers)} layers, which are dense"
    return Mask(kept), note


def without_norms(
    name: str, model: nn.Module, mask: Mask, personal: Collection[str]
) -> Mask:
    """The mask of a model whose masked directions are folded in place; it is frozen.

    Args:
        name: What the model is called in messages.
        model: With weight norm, and with the values that it keeps.
        mask: By names of directions and of other weights.
        personal: Entries that each device has for itself.

    Raises:
        ExportError: If one of these is folded into a weight.
    """
    before = set(model.state_dict())
    found = fold_directions(model, mask)
    gone = sorted((before - set(model.state_dict())) & set(personal))
    if gone:
        raise ExportError(
            f"{name}: {gone[0]} is personal, and weight norm makes a weight of it that "
            "no device can make its own",
            remedy="Leave weight norm out of personal layers "
            "(torch.nn.utils.parametrize.remove_parametrizations).",
        )
    for weight in model.parameters():  # torch leaves one that it made to train
        weight.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    return found
