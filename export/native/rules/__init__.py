"""Rules that lower an operator of ONNX, a file for each kind; `RULES` has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import onnx

from export.native.lowering import Lowering
from export.native.rules import (
    activations,
    composed,
    copies,
    einsum,
    layers,
    lookups,
    pools,
    recurrent,
    shapes,
    spectra,
    values,
)

__all__ = ["RULES"]

Rule: TypeAlias = Callable[[Lowering, onnx.NodeProto], None]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **activations.RULES,
        **composed.RULES,
        **copies.RULES,
        **einsum.RULES,
        **layers.RULES,
        **lookups.RULES,
        **pools.RULES,
        **recurrent.RULES,
        **shapes.RULES,
        **spectra.RULES,
        **values.RULES,
    }
)
