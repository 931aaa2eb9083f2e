"""Gives weights that the exporter transposed the names of the layers they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph import rename, weights
from export.passes import PassResult

__all__ = ["TRANSPOSED", "NameWeights"]

TRANSPOSED = ".transposed"  # suffix of a weight stored as (in, out)


@dataclass(frozen=True)
class NameWeights:
    """Renames a transposed weight, ``val_8``, to ``fc.weight.transposed``.

    A linear layer on inputs of three axes is exported as MatMul with its weight
    transposed into an anonymous constant; the mask gate has to find it again.

    Attributes:
        arrays: The masked weights of the module, by ``state_dict`` names.
    """

    arrays: Mapping[str, NDArray[Any]]

    requires: ClassVar[str] = "the weights still have the module's values"
    ensures: ClassVar[str] = "every masked weight of the graph is named after its layer"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Renames the initializers in place."""
        present = weights(model)
        anonymous = {n: t for n, t in present.items() if n not in self.arrays}
        names: dict[str, str] = {}
        for wanted, array in self.arrays.items():
            if wanted in present or array.ndim != 2:
                continue
            for name, tensor in anonymous.items():
                if list(tensor.dims) == list(array.shape[::-1]) and np.array_equal(
                    numpy_helper.to_array(tensor), array.T
                ):
                    names[name] = wanted + TRANSPOSED
                    del anonymous[name]
                    break
        rename(model, names)
        return PassResult(model, bool(names), f"{len(names)} transposed weights named")
