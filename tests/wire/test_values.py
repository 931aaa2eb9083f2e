from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.sparse import Mask
from edge_sdk.wire.values import (
    Evidence,
    Values,
    pack_evidence,
    pack_values,
    unpack_evidence,
    unpack_values,
)

MASK = Mask({"fc.weight": np.eye(2, dtype=bool), "out.weight": np.ones((1, 2), bool)})
DENSE: dict[str, Any] = {
    "fc.bias": np.array([1, -1], np.float32),
    "bn.seen": np.array(7, np.int64),
}
KEPT = {
    "fc.weight": np.array([0.5, 0.0], np.float32),
    "out.weight": np.array([1, 2], np.float32),
}
VALUES = Values(MASK.digest, KEPT, DENSE)
GOLDEN = "29381220f7b108c3f543e0147dc051494ec8cfa9e6e62d91a38618827a955fd7"
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def body() -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(pack_values(VALUES, MASK))
    return found


def packed(**changes: Any) -> bytes:
    found: bytes = msgpack.packb(body() | changes)
    return found


def test_a_payloads_bytes_are_golden() -> None:
    payload = pack_values(VALUES, MASK)
    assert hashlib.sha256(payload).hexdigest() == GOLDEN
    assert body()["values"].hex() == "0000003f000000000000803f00000040"


@st.composite
def models(draw: st.DrawFn) -> tuple[Mask, Values]:
    """A mask, values on it, and a dense remainder of several types."""
    patterns = draw(
        st.dictionaries(
            st.sampled_from("abc"),
            hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)),
            max_size=3,
        )
    )
    mask = Mask(patterns)
    masked = {
        n: draw(hnp.arrays(np.float32, mask.counts[n], elements=floats)) for n in mask
    }
    shape = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
    dense = {
        "w": draw(hnp.arrays(np.float32, shape, elements=floats)),
        "n": draw(hnp.arrays(np.int64, shape)),
    }
    return mask, Values(mask.digest, masked, dense)


@given(models())
def test_values_round_trip_with_their_zeros(model: tuple[Mask, Values]) -> None:
    mask, values = model
    found = unpack_values(pack_values(values, mask), mask)
    assert list(found.masked) == list(mask)
    for part in ("masked", "dense"):
        before, after = getattr(values, part), getattr(found, part)
        assert set(before) == set(after)
        for name in before:
            assert after[name].dtype == before[name].dtype
            np.testing.assert_array_equal(after[name], before[name], strict=True)
    for name, csr in found.csr(mask).items():
        assert csr.nnz == mask.counts[name]


@given(models())
def test_four_bytes_per_kept_value_and_little_more(model: tuple[Mask, Values]) -> None:
    mask, values = model
    dense = sum(a.nbytes for a in values.dense.values())
    assert len(pack_values(values, mask)) <= 4 * mask.nnz + dense + 250


def test_every_truncation_of_a_payload_is_refused() -> None:
    payload = pack_values(VALUES, MASK)
    for end in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            unpack_values(payload[:end], MASK)
    with pytest.raises(RemoteProtocolError):
        unpack_values(payload + b"\x00", MASK)


NAN, INF = (np.array([x, 0, 0, 0], "<f4").tobytes() for x in (np.nan, -np.inf))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mask": bytes(32)}, "stands on mask"),
        ({"mask": b"short"}, "mask"),
        ({"values": bytes(12)}, "12 bytes for 4 values"),
        ({"values": bytes(20)}, "20 bytes"),
        ({"nnz": 3}, "3 values; the mask keeps 4"),
        ({"nnz": -1}, "nnz"),
        ({"values": NAN}, "not finite"),
        ({"values": INF}, "not finite"),
        ({"dense": {"b": {"dtype": "f4", "shape": [1], "data": NAN[:4]}}}, "finite"),
        ({"dense": {"b": {"dtype": "f4", "shape": [2], "data": b""}}}, "its shape"),
        ({"dense": {"b": {"dtype": "f4", "shape": [-1], "data": b""}}}, "shape"),
        ({"dense": {"b": {"dtype": "f8", "shape": [1], "data": bytes(8)}}}, "f8"),
        ({"dense": {"b": {"dtype": "f4", "shape": [1] * 99, "data": bytes(4)}}}, "b:"),
        ({"dense": {"b": {"dtype": "i8", "shape": [0, 1 << 62], "data": b""}}}, "b:"),
        ({"codec": "int8"}, "int8"),
        ({"version": 2}, "2"),
        ({"type": "evidence"}, "evidence"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(
    changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        unpack_values(packed(**changes), MASK)


def test_unknown_fields_are_skipped() -> None:
    found = unpack_values(packed(scales=[1, 2, {"a": []}]), MASK)
    np.testing.assert_array_equal(found.masked["out.weight"], [1, 2])


def test_values_that_do_not_fit_their_mask_are_not_packed() -> None:
    wrong = Values(MASK.digest, KEPT | {"fc.weight": np.zeros(3, np.float32)}, {})
    with pytest.raises(LocalProtocolError, match=r"fc\.weight has \(3,\) values"):
        pack_values(wrong, MASK)
    with pytest.raises(LocalProtocolError, match="codec 'int4'"):
        pack_values(VALUES, MASK, codec="int4")
    odd = Values(MASK.digest, KEPT, {"flag": np.array([True])})
    with pytest.raises(LocalProtocolError, match="entry flag has dtype bool"):
        pack_values(odd, MASK)


def test_a_model_without_masked_layers_travels_too() -> None:
    empty = Mask({})
    found = unpack_values(pack_values(Values(empty.digest, {}, DENSE), empty), empty)
    assert found.masked == {}
    assert found.dense["bn.seen"] == 7


SIZES = {"fc": 10, "out": 4}


def test_evidence_round_trips() -> None:
    payload = pack_evidence(Evidence({"fc": 10, "out": 0}))
    assert unpack_evidence(payload, SIZES) == Evidence({"fc": 10, "out": 0})
    for end in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            unpack_evidence(payload[:end], SIZES)


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"fc": 1}, "names other layers"),
        ({"fc": 1, "out": 1, "more": 1}, "names other layers"),
        ({"fc": 11, "out": 1}, "layer fc cannot keep 11 of 10"),
        ({"fc": -1, "out": 1}, "int"),
    ],
)
def test_evidence_that_cannot_be_is_refused(counts: dict[str, int], why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        unpack_evidence(pack_evidence(Evidence(counts)), SIZES)
