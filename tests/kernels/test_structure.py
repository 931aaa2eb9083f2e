"""Structures: what they cost, how they are shared, what they refuse."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from edge_sdk.errors import EngineError
from edge_sdk.kernels.structure import Structure


def pattern(*shape: int, density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("shape", [(256, 256, 3, 3), (2048, 3136), (64, 32, 5, 5)])
def test_a_kept_weight_costs_less_than_18_bytes_in_all(
    shape: tuple[int, ...], density: float
) -> None:
    """Value, gradient and momentum are 12 bytes; the index must stay below 6."""
    structure = Structure.of(pattern(*shape, density=density))
    assert 12 + structure.nbytes / structure.nnz < 18


def test_a_full_pattern_of_a_conv_stores_row_pointers_only() -> None:
    assert Structure.of(np.ones((64, 32, 3, 3), np.bool_)).nbytes == 4 * 65


def test_one_pattern_is_built_once_and_freed_with_its_last_user() -> None:
    keep = pattern(8, 8, 3, 3, density=0.3)
    first = Structure.of(keep)
    assert Structure.of(keep.copy()) is first
    assert Structure.of(keep, groups=2) is not first
    handle = id(first)
    del first
    gc.collect()
    assert Structure.of(keep).nnz == int(keep.sum())
    assert handle


def test_empty_rows_and_empty_layers_are_counted_right() -> None:
    keep = pattern(6, 5, 3, 3, density=0.4)
    keep[2] = False
    assert Structure.of(keep).nnz == int(keep.sum())
    assert Structure.of(np.zeros((4, 4), np.bool_)).nnz == 0


def test_columns_beyond_16_bits_use_wide_indices() -> None:
    keep = np.zeros((2, 70_000), np.bool_)
    keep[:, [0, 65_535, 65_536, 69_999]] = True
    assert Structure.of(keep).nnz == 8


@pytest.mark.parametrize(
    "bad",
    [
        np.ones((3,), np.bool_),
        np.ones((2, 2, 3), np.bool_),
        np.ones((2, 2), np.float32),
        np.ones((0, 2), np.bool_),
    ],
    ids=["one-axis", "three-axes", "float", "no-rows"],
)
def test_what_is_not_a_pattern_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(EngineError, match="boolean pattern"):
        Structure.of(bad)


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(EngineError, match="groups"):
        Structure.of(np.ones((3, 2, 1, 1), np.bool_), groups=2)


def test_half_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="float16"):
        Structure.of(np.ones((3, 2), np.bool_), dtype=torch.float16)
