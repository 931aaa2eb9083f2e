from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edge_sdk.errors import SparsityError
from edge_sdk.sparse import CsrTensor

shapes = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)
weights = shapes.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(
            np.float32, shape, elements=st.sampled_from([0.0, -0.0, 1.0, -2.5, 3e38])
        ),
        hnp.arrays(np.bool_, shape),
    )
)


@given(weights)
def test_a_masked_layer_round_trips_and_keeps_its_zeros(
    layer: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    weight, keep = layer
    csr = CsrTensor.from_dense(weight, keep)
    assert csr.nnz == np.count_nonzero(keep)
    np.testing.assert_array_equal(csr.pattern().reshape(keep.shape), keep)
    np.testing.assert_array_equal(
        csr.to_dense().reshape(weight.shape), np.where(keep, weight, 0)
    )
    np.testing.assert_array_equal(csr.values, weight[keep])


@given(weights)
def test_scipy_and_back_is_the_same_tensor(
    layer: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    csr = CsrTensor.from_dense(*layer)
    again = CsrTensor.from_scipy(csr.to_scipy())
    assert again.shape == csr.shape
    for name in ("indptr", "indices", "values"):
        np.testing.assert_array_equal(getattr(again, name), getattr(csr, name))


def test_scipy_in_another_order_is_brought_to_ours() -> None:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(
        (np.array([2.0, 1.0], np.float32), np.array([1, 0]), np.array([0, 2])),
        shape=(1, 2),
    )
    assert CsrTensor.from_scipy(matrix).indices.tolist() == [0, 1]
    assert matrix.indices.tolist() == [1, 0]


INT, VAL = np.int32, np.float32


@pytest.mark.parametrize(
    ("shape", "indptr", "indices", "values", "why"),
    [
        ((2, 3), [0, 1], [0], [1], "do not fit"),
        ((2, 3), [0, 1, 2], [0], [1], "from 0 to nnz"),
        ((2, 3), [1, 1, 1], [0], [1], "from 0 to nnz"),
        ((2, 3), [0, 2, 1], [0], [1], "from 0 to nnz"),
        ((2, 3), [0, 1, 1], [3], [1], "outside the row"),
        ((2, 3), [0, 1, 1], [-1], [1], "outside the row"),
        ((2, 3), [0, 2, 2], [1, 1], [1, 1], "not ascending within"),
        ((2, 3), [0, 2, 2], [2, 0], [1, 1], "not ascending within"),
        ((2, 3), [0, 1, 2], [0, 1], [1], "do not fit"),
        ((-1, 3), [0], [], [], "out of range"),
        ((1, 1 << 31), [0, 0], [], [], "out of range"),
    ],
)
def test_what_is_not_canonical_is_refused(
    shape: tuple[int, int],
    indptr: list[int],
    indices: list[int],
    values: list[float],
    why: str,
) -> None:
    with pytest.raises(SparsityError, match=why):
        CsrTensor(
            shape, np.array(indptr, INT), np.array(indices, INT), np.array(values, VAL)
        )


@pytest.mark.parametrize(
    ("ptr", "idx", "val", "why"),
    [
        (np.int64, INT, VAL, "must be int32"),
        (INT, np.int64, VAL, "must be int32"),
        (INT, INT, np.float64, "must be float32"),
    ],
)
def test_other_types_are_refused(ptr: type, idx: type, val: type, why: str) -> None:
    with pytest.raises(SparsityError, match=why):
        CsrTensor((1, 1), np.array([0, 1], ptr), np.array([0], idx), np.ones(1, val))


def test_columns_may_start_again_in_every_row_also_after_empty_ones() -> None:
    csr = CsrTensor(
        (4, 3),
        np.array([0, 0, 2, 2, 3], INT),
        np.array([1, 2, 0], INT),
        np.array([1, 2, 3], VAL),
    )
    assert csr.to_dense()[3, 0] == 3


def test_a_weight_of_another_shape_than_its_mask_is_refused() -> None:
    with pytest.raises(SparsityError, match="differ"):
        CsrTensor.from_dense(np.zeros((2, 2), VAL), np.ones((2, 3), np.bool_))
