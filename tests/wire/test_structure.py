from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.structure import (
    CODES,
    Code,
    decode_structure,
    encode_structure,
    largest_structure,
)

LAYERS = [LayerShape("conv", (8, 4, 3, 3)), LayerShape("fc", (20, 50))]
MASK = draw(LAYERS, {"conv": 30, "fc": 50}, 3)

# Each code's bytes for one small layer, and they never change.
EYE = Mask({"fc": np.eye(4, 9, dtype=bool)})
GOLDEN = {
    "csr": "000000000100000002000000030000000400000000000000010000000200000003000000",
    "gap": "544902",
    "bitmap": "0104104000",
}


def layer_in(data: bytes, name: str = "fc") -> list[Any]:
    found: list[Any] = msgpack.unpackb(data)["layers"][name]
    return found


def with_layer(layer: list[Any], **changes: Any) -> bytes:
    body = {"type": "structure", "version": 1, "layers": {"fc": layer}} | changes
    found: bytes = msgpack.packb(body)
    return found


def eye(data: bytes) -> Mask:
    return decode_structure(data, [LayerShape("fc", (4, 9))], EYE.digest)


@pytest.mark.parametrize("code", CODES)
def test_each_codes_bytes_are_golden(code: Code) -> None:
    data = encode_structure(EYE, codes=[code])
    assert layer_in(data)[3].hex() == GOLDEN[code]
    assert eye(data) == EYE


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=4, max_side=7)),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_every_pattern_comes_back_in_every_code(
    pattern: Any, density: float, seed: int
) -> None:
    sparse = np.random.default_rng(seed).random((9, 60)) < density
    mask = Mask({"a": pattern, "b": sparse})
    layers = [LayerShape("a", pattern.shape), LayerShape("b", sparse.shape)]
    sizes = {}
    for code in CODES:
        data = encode_structure(mask, codes=[code])
        assert decode_structure(data, layers, mask.digest) == mask
        sizes[code] = len(data)
    assert len(encode_structure(mask)) <= min(sizes.values())


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.2, 0.5])
def test_the_smallest_code_is_near_the_entropy(density: float) -> None:
    """Bits per weight; int32 indices alone would be 32 times the density."""
    shape = LayerShape("fc", (500, 400))
    mask = draw([shape], {"fc": round(density * shape.numel)}, 1)
    bits = 8 * len(encode_structure(mask)) / shape.numel
    entropy = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
    assert entropy <= bits < 1.08 * entropy + 0.003


def test_every_truncation_and_mutation_is_refused_or_the_same_mask() -> None:
    for code in CODES:
        data = encode_structure(MASK, codes=[code])
        for end in range(len(data)):
            with pytest.raises(RemoteProtocolError):
                decode_structure(data[:end], LAYERS, MASK.digest)
        rng = np.random.default_rng(1)
        for spot in rng.integers(0, len(data), 400):
            damaged = bytearray(data)
            damaged[spot] ^= int(rng.integers(1, 256))
            with contextlib.suppress(RemoteProtocolError):
                assert decode_structure(bytes(damaged), LAYERS, MASK.digest) == MASK


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (["gap", 37, 0, b""], "cannot keep 37 of 36"),
        (["gap", 4, 32, b""], "low_bits|<= 31"),
        (["gap", -1, 0, b""], ">= 0"),
        (["gap", 4, 3, b""], "wrong length"),
        (["gap", 4, 3, bytes(90)], "wrong length"),
        (["gap", 4, 3, bytes(3)], "wrong number of gaps"),
        (["gap", 2, 4, b"\xff\x04"], "wrong number of gaps"),
        (["gap", 2, 4, b"\xff\x30"], "beyond the layer's end"),
        (["bitmap", 4, 0, bytes(4)], "wrong length"),
        (["bitmap", 4, 0, bytes(5)], "not 4 weights"),
        (["bitmap", 1, 0, bytes(4) + b"\x80"], "a bit beyond"),
        (["csr", 4, 0, bytes(35)], "wrong length"),
        (["csr", 4, 0, bytes(36)], "indptr"),
        (["morse", 4, 0, b""], "morse"),
        (["bitmap", 1, 0, b"\x01" + bytes(4)], "was meant"),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(layer: list[Any], why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        eye(with_layer(layer))


def test_other_layers_than_the_models_are_refused() -> None:
    good = layer_in(encode_structure(EYE))
    for layers in ({}, {"out": good}, {"fc": good, "out": good}):
        with pytest.raises(RemoteProtocolError, match="names other layers"):
            eye(with_layer(good, layers=layers))
    with pytest.raises(RemoteProtocolError, match="2"):
        eye(with_layer(good, version=2))


@given(st.floats(0, 1), st.integers(0, 9))
def test_no_structure_passes_what_the_gate_allows(density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = Mask({s.name: rng.random(s.shape) < density for s in LAYERS})
    most = largest_structure({s.name: s.numel for s in LAYERS})
    assert len(encode_structure(mask)) <= most


def test_a_gap_code_of_many_low_bits_is_decoded_in_little_memory() -> None:
    """All low bits at once as int64 took 8 bytes a bit: 31 MB here."""
    size = 1_000_000
    pattern = np.zeros((1, size), bool)
    pattern[0, ::8] = True
    mask = Mask({"fc": pattern})
    layer = ["gap", 125_000, 31, bytes(125_000 * 31 // 8 + 200_000)]
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_structure(
                with_layer(layer), [LayerShape("fc", (1, size))], mask.digest
            )
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
