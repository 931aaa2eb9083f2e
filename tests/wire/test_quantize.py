from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.quantize import NAMES, decode, encode, encoded_size

BLOCK = {"int8": 256, "int4": 64}
TOP = {"int8": 127, "int4": 7}
FLOAT32 = np.finfo(np.float32)
SMALL = [0.5, -1.0, 0.25, 0.0, 3.0]

# The bytes of a released codec never change.
GOLDEN = {
    "fp32": "0000003f000080bf0000803e0000000000004040",
    "fp16": "f3ff006c00f0006800000076",
    "int8": "ecff0d7615d60b007f",
    "int4": "f0ffdc76e10107",
}


def tensors(limit: float = float(FLOAT32.max)) -> st.SearchStrategy[Any]:
    elements = st.floats(-limit, limit, width=32)
    return hnp.arrays(np.float32, st.integers(0, 600), elements=elements)


extremes = np.array([FLOAT32.max, -FLOAT32.max, 1e-45, 0, -1e-45, 1], np.float32)


def test_each_codecs_bytes_are_golden() -> None:
    assert {c: encode(c, np.array(SMALL)).hex() for c in NAMES} == GOLDEN


@example(extremes)
@given(tensors())
def test_every_tensor_comes_back_within_half_a_step(values: Any) -> None:
    """A step is the largest of its block over 127 or 7; fp16 keeps 11 bits."""
    exact = values.astype(np.float64)
    for codec in NAMES:
        data = encode(codec, values)
        assert len(data) == encoded_size(codec, values.size)
        found = decode(codec, data, values.size)
        assert found.dtype == np.float32
        error = np.abs(found - exact)
        peak = np.abs(exact).max(initial=0.0)
        if codec == "fp32":
            assert found.tobytes() == values.tobytes()
        elif codec == "fp16":
            assert (
                error <= np.maximum(2.0**-11 * np.abs(exact), peak * 2.0**-39)
            ).all()
        else:
            for start in range(0, values.size, BLOCK[codec]):
                part = slice(start, start + BLOCK[codec])
                own = np.abs(exact[part]).max()
                # The scale itself has 11 bits, or the last bit of the tensor's range.
                step = own / TOP[codec] * (1 + 2.0**-10) + peak * 2.0**-39
                assert (error[part] <= 0.5001 * step + 1e-45).all()


@given(tensors(), st.integers(0, 99))
def test_random_rounding_stays_within_one_step_and_replays(
    values: Any, seed: int
) -> None:
    for codec in ("int8", "int4"):
        data = encode(codec, values, rng=np.random.default_rng(seed))
        assert data == encode(codec, values, rng=np.random.default_rng(seed))
        error = np.abs(decode(codec, data, values.size) - values.astype(np.float64))
        peak = np.abs(values).max(initial=0.0).astype(float)
        assert (error <= peak / TOP[codec] * (1 + 2.0**-9) + 1e-45).all()
        again = encode(codec, np.zeros_like(values), rng=np.random.default_rng(seed))
        assert not decode(codec, again, values.size).any()


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_random_rounding_is_unbiased_and_nearest_is_not(codec: str) -> None:
    """The mean of 4 000 roundings, within six standard errors; every value at once."""
    values = np.random.default_rng(3).normal(0, 1e-4, 300).astype(np.float32)
    rng, draws = np.random.default_rng(5), 4000
    total = np.zeros(values.size)
    for _ in range(draws):
        total += decode(codec, encode(codec, values, rng=rng), values.size)
    steps = np.repeat(
        [
            np.abs(values[i : i + BLOCK[codec]]).max() / TOP[codec]
            for i in range(0, values.size, BLOCK[codec])
        ],
        BLOCK[codec],
    )[: values.size]
    bias = np.abs(total / draws - values) / steps
    assert bias.max() < 6 * 0.5 / np.sqrt(draws)
    nearest = decode(codec, encode(codec, values), values.size)
    assert (np.abs(nearest - values) / steps).max() > 0.4


@given(tensors())
def test_directed_rounding_of_fp16_errs_on_one_side(values: Any) -> None:
    down = decode("fp16", encode("fp16", values, toward="down"), values.size)
    up = decode("fp16", encode("fp16", values, toward="up"), values.size)
    assert (down <= values).all()
    assert (values <= up).all()
    peak = np.abs(values).max(initial=0.0).astype(float)
    assert (up.astype(float) - down <= peak * 2.0**-9).all()


def test_every_wrong_length_is_refused_before_a_byte_is_read() -> None:
    for codec in NAMES:
        data = encode(codec, np.ones(65))
        for wrong in (data[:-1], data + b"\0", b""):
            with pytest.raises(RemoteProtocolError, match=f"for 65 {codec} values"):
                decode(codec, wrong, 65)
        with pytest.raises(RemoteProtocolError):
            decode(codec, data, 1 << 60)


HALF_NAN, HALF_INF, HALF_NEGATIVE = b"\x00\x7e", b"\x00\x7c", b"\x00\xbc"


@pytest.mark.parametrize(
    ("codec", "data", "why"),
    [
        ("fp32", b"\x00\x00\xc0\x7f", "not finite"),
        ("fp32", b"\x00\x00\x80\xff", "not finite"),
        ("fp16", b"\x00\x00" + HALF_NAN, "not finite"),
        ("fp16", b"\x00\x00" + HALF_INF, "not finite"),
        ("fp16", b"\x72\x00\x00\x00", "exponent of 114"),
        ("fp16", b"\x55\xff\x00\x00", "exponent of -171"),
        ("fp16", b"\xff\x7f\x00\x3c", "exponent of 32767"),
        ("int8", b"\x00\x00" + HALF_NAN + b"\x01", "not finite"),
        ("int8", b"\x00\x00" + HALF_NEGATIVE + b"\x01", "negative scale"),
        ("int8", b"\x00\x00\x00\x3c\x80", "below -127"),
        ("int4", b"\x00\x00\x00\x3c\x08", "below -7"),
        ("int4", b"\x00\x00\x00\x3c\x11", "beyond its last value"),
    ],
)
def test_bytes_that_encode_never_writes_are_refused(
    codec: str, data: bytes, why: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode(codec, data, 1)


@given(st.sampled_from(NAMES), st.integers(0, 200), st.data())
def test_noise_of_the_right_length_is_refused_or_finite(
    codec: str, count: int, data: st.DataObject
) -> None:
    size = encoded_size(codec, count)
    noise = data.draw(st.binary(min_size=size, max_size=size))
    with contextlib.suppress(RemoteProtocolError):
        found = decode(codec, noise, count)
        assert found.shape == (count,)
        assert np.isfinite(found).all()


def test_what_cannot_be_encoded_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError, match="codec 'int3' is none of fp32"):
        encode("int3", np.ones(1))
    for codec in ("fp16", "int8", "int4"):
        with pytest.raises(LocalProtocolError, match=f"cannot be sent as {codec}"):
            encode(codec, np.array([1, np.inf]))


# Half a step would be lost in every round, were the model itself rounded.
ROUNDS, STEP = 200, 1e-4


def chain(down: str, *, to_decoded: bool) -> Any:
    """A model after rounds of the same small change, its base rounded on the way."""
    start = np.linspace(-1, 1, 256, dtype=np.float32)
    model = start
    for _ in range(ROUNDS):
        base = decode(down, encode(down, model), model.size)
        change = (base + np.float32(STEP)) - base  # what a device trained
        model = ((base if to_decoded else model) + change).astype(np.float32)
    return np.abs(model - (start.astype(float) + ROUNDS * STEP)).max()


def test_rounding_of_the_base_does_not_accumulate() -> None:
    """See docs/adr/0011-update-is-a-change-to-the-base.md."""
    moved = ROUNDS * STEP
    for down in ("fp16", "int8", "int4"):
        assert chain(down, to_decoded=False) < 0.002 * moved
    assert chain("int8", to_decoded=True) > 0.5 * moved  # it never leaves its step


def test_rounding_of_updates_grows_like_a_random_walk_not_like_the_rounds() -> None:
    rng = np.random.default_rng(2)
    change = rng.normal(0, 1e-3, 1024).astype(np.float32)
    step = np.abs(change).max() / 127
    total = np.zeros(change.size)
    for _ in range(ROUNDS):
        total += decode("int8", encode("int8", change, rng=rng), change.size)
    error = np.abs(total - ROUNDS * change.astype(float))
    assert error.max() < 5 * 0.5 * step * np.sqrt(ROUNDS)
    same = decode("int8", encode("int8", change), change.size)
    assert np.abs(ROUNDS * (same - change.astype(float))).max() > error.max()
