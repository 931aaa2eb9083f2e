"""Tracing of models by torch.fx, safe beside threads that run other models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from torch import fx, nn

from edge_sdk.tasks.layers import in_mode

__all__ = ["trace_layers"]

_TRACING: Final = threading.Lock()  # two at once would undo each other's patches


def trace_layers(model: nn.Module, *, training: bool) -> fx.Graph:
    """The graph of a model's layers in one mode; the model's own is left as it is.

    Raises:
        Exception: Whatever the model's Python raises where it cannot be traced.
    """
    with _TRACING, in_mode(model, training=training):
        return _LayerTracer().trace(model)


class _LayerTracer(fx.Tracer):
    """Tracer that leaves other threads' models alone: fx patches modules for all."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a layer of the traced model; run one of another thread's."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)
