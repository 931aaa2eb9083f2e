"""Packed tensors come back bit for bit, in onnxruntime, whatever the pattern."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export.passes.packing import (
    Fragment,
    bitmask_fragment,
    gap_list,
    gaps_fragment,
    nibble_list,
    nibbles_fragment,
    shared_constants,
    smallest,
)
from export.runtime import unpacked

DTYPES = [np.float32, np.float16, np.int8]


def model_of(fragment: Fragment) -> onnx.ModelProto:
    output = onnx.ValueInfoProto()
    output.name = "w"
    constants = [*fragment.constants, *shared_constants()]
    graph = helper.make_graph(list(fragment.nodes), "g", [], [output], constants)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


@st.composite
def sparse_arrays(draw: st.DrawFn) -> np.ndarray:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=4)))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(-100, 100, shape).astype(dtype)
    return np.where(rng.random(shape) < density, values, dtype(0))


@settings(max_examples=60, deadline=None)
@given(
    array=sparse_arrays(),
    make=st.sampled_from([gaps_fragment, nibbles_fragment, bitmask_fragment]),
)
def test_any_sparse_array_comes_back_bit_for_bit(array: np.ndarray, make) -> None:
    fragment = make("w", array, prefix="p0")
    if fragment is None:  # nothing is kept, or no zero makes the number of codes even
        assert make is nibbles_fragment
        return
    back = unpacked(model_of(fragment), ["w"])["w"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("first", [0, 1, 254, 255, 256, 509, 510, 511, 512, 1000])
@pytest.mark.parametrize("distance", [1, 254, 255, 256, 510, 511, 766])
def test_long_distances_are_bridged_by_fillers(first: int, distance: int) -> None:
    positions = np.array([first, first + distance])
    gaps, values = gap_list(positions, np.array([3.0, 4.0], np.float32))
    spots = np.cumsum(gaps.astype(np.int64))
    assert spots[values != 0].tolist() == positions.tolist()
    assert np.unique(spots).size == spots.size  # no position is written twice


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(0, 3))
def test_nibbles_lead_to_every_kept_weight_and_no_other(
    distances: list[int], tail: int
) -> None:
    positions = np.cumsum(distances) - 1
    flat = np.zeros(positions[-1] + 1 + tail, np.float32)
    flat[positions] = 1 + np.arange(positions.size)
    found = nibble_list(flat)
    if found is None:
        assert tail == 0
        assert all((d - 1) % 15 == 0 for d in np.diff(positions, prepend=-1)[1:])
        return
    codes, values = found
    assert codes.size % 2 == 0
    kept = codes < 15
    spots = np.cumsum(np.where(kept, codes + 1, 15)) - (flat[0] != 0)
    assert np.unique(spots).size == spots.size  # no position is written twice
    assert spots[-1] < flat.size
    back = np.zeros_like(flat)
    back[spots[kept]] = values
    assert back.tobytes() == flat.tobytes()


def test_the_nibble_format_does_not_change() -> None:
    flat = np.zeros(60, np.float32)
    flat[[0, 1, 16, 48]] = 1, 2, 3, 4
    codes, values = nibble_list(flat) or (None, None)
    assert codes.tolist() == [0, 0, 14, 15, 15, 1]
    assert values.tolist() == [1, 2, 3, 4]


def test_the_gap_format_does_not_change() -> None:
    gaps, values = gap_list(
        np.array([0, 1, 256, 900]), np.array([1, 2, 3, 4], np.float32)
    )
    assert gaps.tobytes() == bytes([0, 1, 255, 255, 255, 134])
    assert values.tolist() == [1, 2, 3, 0, 0, 4]


@pytest.mark.parametrize(
    ("density", "encoding"),
    [(0.03, "gaps"), (0.1, "nibbles"), (0.2, "nibbles"), (0.4, "bitmask")],
)
def test_the_smaller_encoding_is_chosen(density: float, encoding: str) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    array[rng.random(array.shape) >= density] = 0
    fragment = smallest("w", array, prefix="p")
    assert fragment is not None
    assert fragment.encoding == encoding
    # 8 bits per gap, 4 per step or 1 per weight, and under a kilobyte of nodes
    kept = np.count_nonzero(array)
    steps = 4 * kept / (1 - (1 - density) ** 15)  # those that land on none included
    bits = {"gaps": 8 * kept, "nibbles": steps, "bitmask": array.size}[encoding]
    ideal = kept * 4 + bits / 8
    assert fragment.size < ideal + 1000


def test_what_is_not_worth_packing_stays_dense() -> None:
    dense = np.ones((64, 64), np.float32)
    dense[0, :60] = 0
    assert smallest("w", dense, prefix="p") is None
    assert smallest("w", np.eye(3, dtype=np.float32), prefix="p") is None
