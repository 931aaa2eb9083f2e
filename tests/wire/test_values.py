from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.wire.evidence import Evidence, pack_evidence, unpack_evidence
from edge_sdk.wire.quantize import NAMES, ZSTD, compress
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import (
    CODECS,
    Values,
    agreed,
    largest_payload,
    mask_in,
    pack_values,
    unpack_moved,
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
# SHA-256 of the payload in each codec: an old device must read a new coordinator's.
GOLDEN = {
    "fp32": "14dfdf59ebda533c",
    "fp16": "580d761235e02124",
    "int8": "b52e9c466e2a82b4",
    "int4": "9d423fbacd2915fc",
}
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def body() -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(pack_values(VALUES, MASK))
    return found


def packed(**changes: Any) -> bytes:
    found: bytes = msgpack.packb(body() | changes)
    return found


def test_a_payloads_bytes_are_golden() -> None:
    found = {c: pack_values(VALUES, MASK, codec=c) for c in NAMES}
    assert {c: hashlib.sha256(p).hexdigest()[:16] for c, p in found.items()} == GOLDEN
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
    for codec in CODECS:
        payload = pack_values(values, mask, codec=codec)
        assert len(payload) <= largest_payload(codec, mask.counts, values.dense) + 250
    most = largest_payload("fp32", mask.counts, values.dense)
    assert most == 4 * mask.nnz + sum(a.nbytes for a in values.dense.values())


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
        ({"mask": bytes(32)}, "made with mask"),
        ({"mask": b"short"}, "mask"),
        ({"values": bytes(12)}, "12 bytes for 4 fp32 values"),
        ({"values": bytes(20)}, "20 bytes"),
        ({"nnz": 3}, "3 fp32 values; the mask keeps 4"),
        ({"nnz": -1}, "nnz"),
        ({"values": NAN}, "not finite"),
        ({"values": INF}, "not finite"),
        ({"dense": {"b": ["fp32", [1], NAN[:4]]}}, "entry b: .* finite"),
        ({"dense": {"b": ["fp32", [2], b""]}}, "entry b: .* 0 bytes for 2 fp32"),
        ({"dense": {"b": ["fp32", [-1], b""]}}, "dense"),
        ({"dense": {"b": ["f8", [1], bytes(8)]}}, "f8"),
        ({"dense": {"b": ["int4", [1], bytes(5)]}}, "int4"),
        ({"dense": {"b": ["fp32", [1] * 99, bytes(4)]}}, "length <= 32"),
        ({"dense": {"b": ["i8", [2], bytes(8)]}}, "entry b has 8 bytes for 2 integers"),
        ({"dense": {"b": ["i8", [0, 1 << 62], b""]}}, "entry b:"),
        ({"dense": {"b": ["int8", [1 << 62], b""]}}, "entry b:"),
        ({"codec": "int8"}, "16 bytes for 4 int8 values"),
        ({"codec": "int9"}, "int9"),
        ({"packing": "zstd"}, "its frame|zstd was not offered"),
        ({"packing": "lzma"}, "lzma"),
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
    found = unpack_values(packed(mood=[1, 2, {"a": []}]), MASK)
    np.testing.assert_array_equal(found.masked["out.weight"], [1, 2])


def test_values_that_do_not_fit_their_mask_are_not_packed() -> None:
    wrong = Values(MASK.digest, KEPT | {"fc.weight": np.zeros(3, np.float32)}, {})
    with pytest.raises(LocalProtocolError, match=r"fc\.weight has \(3,\) values"):
        pack_values(wrong, MASK)
    with pytest.raises(LocalProtocolError, match="codec 'int9'"):
        pack_values(VALUES, MASK, codec="int9")
    odd = Values(MASK.digest, KEPT, {"flag": np.array([1j])})
    with pytest.raises(LocalProtocolError, match="entry flag has dtype complex128"):
        pack_values(odd, MASK)


def test_a_model_without_masked_layers_travels_too() -> None:
    empty = Mask({})
    found = unpack_values(pack_values(Values(empty.digest, {}, DENSE), empty), empty)
    assert found.masked == {}
    assert found.dense["bn.seen"] == 7


BIG = Mask({"fc.weight": np.arange(40_000).reshape(200, 200) % 10 == 0})
BIG_DENSE: dict[str, Any] = {
    "bn.running_mean": np.linspace(-3, 3, 600, dtype=np.float32),
    "bn.running_var": np.linspace(0, 9, 600, dtype=np.float32),
    "bn.num_batches_tracked": np.array((1 << 60) + 1, np.int64),
    "fc.bias": np.linspace(-1, 1, 600, dtype=np.float32),
}


def big_values() -> Values:
    rng = np.random.default_rng(4)
    kept = rng.normal(0, 1e-3, BIG.nnz) * (rng.random(BIG.nnz) < 0.5)  # exact zeros
    return Values(BIG.digest, {"fc.weight": kept.astype(np.float32)}, BIG_DENSE)


ERROR = {"fp32": 0.0, "fp16": 2.0**-10, "int8": 0.51 / 127, "int4": 0.51 / 7}


@pytest.mark.parametrize("codec", CODECS)
def test_each_codec_keeps_values_within_its_step(codec: str) -> None:
    """Relative to the largest value, which bounds every block's own largest."""
    values, name = big_values(), codec.removesuffix("+zstd")
    payload = pack_values(values, BIG, codec=codec)
    found = unpack_values(payload, BIG, codec=codec)
    for part, error in (("masked", ERROR[name]), ("dense", min(ERROR[name], 0.004))):
        for key, before in getattr(values, part).items():
            after = getattr(found, part)[key]
            assert after.dtype == before.dtype
            assert after.shape == before.shape
            limit = error * np.abs(before).max() if before.dtype.kind == "f" else 0
            assert np.abs(after - before).max() <= limit + 1e-30
    zero = values.masked["fc.weight"] == 0
    assert not found.masked["fc.weight"][zero].any()
    assert found.dense["bn.num_batches_tracked"] == (1 << 60) + 1


@pytest.mark.parametrize("codec", NAMES)
def test_statistics_are_fp16_at_worst_and_a_variance_never_turns_negative(
    codec: str,
) -> None:
    """A rounded base plus a rounded change: what the coordinator adds up."""
    base = big_values()
    down = unpack_values(pack_values(base, BIG, codec=codec), BIG)
    for name in ("bn.running_mean", "bn.running_var"):
        error = np.abs(down.dense[name] - base.dense[name])
        assert (error <= 2.0**-10 * np.abs(base.dense[name]) + 1e-7).all()
    gone = {"bn.running_var": -down.dense["bn.running_var"]}  # it fell to zero
    change = Values(BIG.digest, base.masked, gone)
    rng = np.random.default_rng(1)
    up = unpack_values(pack_values(change, BIG, codec=codec, rng=rng), BIG)
    total = base.dense["bn.running_var"].astype(float) + up.dense["bn.running_var"]
    assert (total >= 0).all()
    assert total.max() <= 9 * 2.0**-9


@pytest.mark.skipif(not ZSTD, reason="zstandard is not installed")
def test_compression_is_kept_only_where_it_is_smaller() -> None:
    plain = pack_values(big_values(), BIG, codec="int8")
    small = pack_values(big_values(), BIG, codec="int8+zstd")
    assert len(small) < 0.9 * len(plain)  # half of the values are zero
    noise = np.random.default_rng(1).integers(1, 1 << 24, BIG.nnz)
    dull = Values(BIG.digest, {"fc.weight": noise.astype(np.float32)}, {})
    for codec in ("int8", "int4"):
        packed_twice = pack_values(dull, BIG, codec=f"{codec}+zstd")
        assert len(packed_twice) <= len(pack_values(dull, BIG, codec=codec))
    same = pack_values(VALUES, MASK, codec="fp16+zstd")
    assert same == pack_values(VALUES, MASK, codec="fp16")


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "fp32"])
def test_every_truncation_and_mutation_in_a_codec_is_refused_or_finite(
    codec: str,
) -> None:
    payload = pack_values(big_values(), BIG, codec=codec)
    rng = np.random.default_rng(7)
    for end in rng.integers(0, len(payload), 60):
        with pytest.raises(RemoteProtocolError):
            unpack_values(payload[:end], BIG)
    for spot in rng.integers(0, len(payload), 300):
        damaged = bytearray(payload)
        damaged[spot] ^= int(rng.integers(1, 256))
        with contextlib.suppress(RemoteProtocolError):
            found = unpack_values(bytes(damaged), BIG)
            assert all(np.isfinite(a).all() for a in found.masked.values())
            assert all(np.isfinite(a).all() for a in found.dense.values())


@pytest.mark.skipif(not ZSTD, reason="zstandard is not installed")
def test_a_compressed_payload_cannot_grow_beyond_its_mask() -> None:
    bomb = compress(bytes(1 << 28))  # 256 MiB in a few KiB
    hostile = packed(packing="zstd", values=bomb)
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="its frame is not one of 16 bytes"):
        unpack_values(hostile, MASK)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_another_codec_than_the_agreed_one_is_refused() -> None:
    payload = pack_values(big_values(), BIG, codec="fp16")
    unpack_values(payload, BIG, codec="fp16")
    with pytest.raises(RemoteProtocolError, match="fp16, raw; int8 was agreed"):
        unpack_values(payload, BIG, codec="int8")
    if ZSTD:
        unpack_values(payload, BIG, codec="fp16+zstd")  # it was not smaller: raw
        squeezed = pack_values(big_values(), BIG, codec="int8+zstd")
        with pytest.raises(RemoteProtocolError, match="int8, zstd; int8 was agreed"):
            unpack_values(squeezed, BIG, codec="int8")


def test_a_value_that_is_not_finite_is_not_rounded() -> None:
    broken = Values(BIG.digest, {"fc.weight": np.full(BIG.nnz, np.nan, np.float32)}, {})
    for codec in ("fp16", "int8", "int4"):
        with pytest.raises(LocalProtocolError, match="not finite"):
            pack_values(broken, BIG, codec=codec)


def test_an_unfrozen_masks_structure_travels_along() -> None:
    shapes = [LayerShape("fc.weight", (200, 200))]
    payload = pack_values(big_values(), BIG, codec="int8", structure=True)
    mask = mask_in(payload, shapes)
    assert mask == BIG
    found = unpack_values(payload, mask)
    assert found.csr(mask)["fc.weight"].nnz == BIG.nnz
    lean = pack_values(big_values(), BIG, codec="int8")
    assert mask_in(lean, shapes) is None
    assert len(payload) - len(lean) == len(encode_structure(BIG)) + 13
    foreign: bytes = msgpack.packb(
        msgpack.unpackb(lean) | {"structure": encode_structure(MASK)}
    )
    with pytest.raises(RemoteProtocolError, match="names other layers"):
        mask_in(foreign, shapes)


@given(st.sampled_from(NAMES), st.sets(st.sampled_from([*CODECS, "morse"])))
def test_the_codec_agreed_is_known_to_both_and_never_coarser_than_wanted(
    wanted: str, theirs: set[str]
) -> None:
    for zstd in (False, True):
        found = agreed(wanted, sorted(theirs), zstd=zstd)
        assert found in CODECS
        assert found in theirs or found == "fp32"
        assert NAMES.index(found.removesuffix("+zstd")) <= NAMES.index(wanted)
        assert zstd or "+zstd" not in found
    assert agreed(wanted, CODECS, zstd=False) == wanted


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


# SHA-256 of the payload of an update that brings its mask along.
GOLDEN_MOVED = "6fea8524454ca56b"


def moved_payload(mask: Mask = MASK, *, structure: bool = True) -> bytes:
    kept = {name: np.ones(mask.counts[name], np.float32) for name in mask}
    values = Values(mask.digest, kept, DENSE)
    return pack_values(values, mask, structure=structure)


def test_a_moved_masks_bytes_are_golden() -> None:
    assert hashlib.sha256(moved_payload()).hexdigest()[:16] == GOLDEN_MOVED


def test_an_update_on_a_mask_of_its_own_brings_it_along() -> None:
    mask = Mask({"fc.weight": ~np.eye(2, dtype=bool), "out.weight": MASK["out.weight"]})
    moved, values = unpack_moved(moved_payload(mask), MASK, codec="fp32")
    assert moved == mask
    assert values.mask_digest == mask.digest
    np.testing.assert_array_equal(values.masked["fc.weight"], [1, 1])


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (moved_payload(structure=False), "does not name the mask"),
        (
            moved_payload(Mask({n: np.ones_like(MASK[n]) for n in MASK})),
            "its mask keeps 6 weights, the task's 4",
        ),
        (moved_payload(Mask({"fc.weight": MASK["fc.weight"]})), "names other layers"),
        (moved_payload()[:-1], "^no valid values: "),
    ],
)
def test_a_moved_mask_that_cannot_be_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        unpack_moved(payload, MASK)
