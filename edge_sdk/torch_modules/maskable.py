"""Weights of a module that a mask may act on, by the kinds of its layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from edge_sdk.torch_modules.weight_norm import direction_of

__all__ = ["ROWS_OUT", "TRANSPOSED", "maskable_weights"]

ROWS_OUT = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def maskable_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names of weights that a mask may act on, and their layers, in the model's order.

    A name is not that of a parameter where a layer's weight is computed otherwise than
    by weight norm.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        head = f"{path}." if path else ""
        if isinstance(module, (*ROWS_OUT, *TRANSPOSED)):
            found = direction_of(module)
            yield f"{head}{'weight' if found is None else found[0]}", module
        elif _plain_lookup(module):
            yield f"{head}weight", module
        elif isinstance(module, _RECURRENT):
            for name, _ in module.named_parameters(recurse=False):
                if name.startswith("weight_"):
                    yield f"{head}{name}", module
        elif isinstance(module, nn.MultiheadAttention):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 2:
                    yield f"{head}{name}", module


def _plain_lookup(module: nn.Module) -> bool:
    """An embedding whose weights nothing but the optimizer changes, densely."""
    return (
        isinstance(module, nn.Embedding)
        and module.max_norm is None
        and not module.sparse
    )
