"""Gain of a unit in a nested mask: what it gives keeps its scale with fewer inputs.

HeteroFL (arXiv:2010.01264) scales a whole layer by its width; here each unit has its
own factor, for in a sparse mask no two keep the same number of inputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["unit_gains"]


def unit_gains(
    outer: NDArray[np.bool_], inner: NDArray[np.bool_], power: float
) -> NDArray[np.float32]:
    """Factor on each weight that the inner mask keeps: (nnz,), canonical CSR order.

    Args:
        outer: One layer's pattern in the larger mask.
        inner: The same layer's in a mask that is nested in it.
        power: Of (inputs in the outer mask / inputs in the inner one); .5 keeps the
            variance.

    Example:
        >>> outer = np.ones((1, 4), bool)
        >>> inner = np.array([[True, False, False, False]])
        >>> unit_gains(outer, inner, 0.5).tolist()
        [2.0]
    """
    large, small = (
        np.count_nonzero(m.reshape(len(m), -1), axis=1) for m in (outer, inner)
    )
    factor = (large / np.maximum(small, 1)) ** power
    return np.repeat(factor, small).astype(np.float32)
