"""Rules that lower an operator of ONNX, a file for each kind; `RULES` has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import onnx

from export.native.lowering import Lowering
from export.native.rules import (
    activations,
    copies,
    einsum,
    layers,
    pools,
    recurrent,
    shapes,
    sorting,
    values,
)

__all__ = ["RULES"]

Rule: TypeAlias = Callable[[Lowering, onnx.NodeProto], None]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **activations.RULES,
        **copies.RULES,
        **einsum.RULES,
        **layers.RULES,
        **pools.RULES,
        **recurrent.RULES,
        **shapes.RULES,
        **sorting.RULES,
        **values.RULES,
    }
)
