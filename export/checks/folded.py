"""Adapters folded into a model's layers, and the check that it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import ExportError
from edge_sdk.sparse import Mask
from edge_sdk.tasks.parts.adapted_model import is_adapter
from edge_sdk.tasks.parts.low_rank import fold_adapters

__all__ = ["folded"]

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
