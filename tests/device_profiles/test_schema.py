from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import (
    Caps,
    DeviceProfile,
    ProfileError,
    load_board,
    parse_profile,
)

PI = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        pytest.param("ram_mib", "3500", "Expected `int`, got `str`", id="wrong type"),
        pytest.param("ram_mib", 0, "`int` >= 1", id="no memory"),
        pytest.param("ram_mib", 4_000_000_000, "`int` <= ", id="bytes for MiB"),
        pytest.param("cores", -4, "`int` >= 1", id="negative cores"),
        pytest.param("train_gflops", 0.0, ">= 1e-05", id="no speed"),
        pytest.param("train_gflops", math.inf, "<= 1000000", id="infinite speed"),
        pytest.param("uplink_mbit_s", math.nan, "uplink_mbit_s", id="no number"),
        pytest.param("rtt_ms", -1.0, ">= 0", id="answers before it is asked"),
        pytest.param("caps", {"cpu_share": 1.5}, "<= 1", id="more than everything"),
        pytest.param("caps", {"ram": 3}, "unknown field `ram`", id="misspelt cap"),
        pytest.param("uplink_mbits", 3.0, "unknown field", id="misspelt key"),
        pytest.param("provenance", {"kind": "guess"}, "Invalid enum", id="guessed"),
    ],
)
def test_an_impossible_number_is_refused_with_file_key_and_expectation(
    key: str, value: object, said: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile({**PI, key: value}, file="mine.toml")
    assert said in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert caught.value.help
    if "unknown field `uplink" not in str(caught.value):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [k for k in PI if k not in {"caps", "watts", "pool_m_s", "engine", "runtime_mib"}],
    ids=lambda key: key,
)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ProfileError, match=f"missing required field `{key}`"):
        parse_profile({k: v for k, v in PI.items() if k != key}, file="hello")


def test_code_cannot_build_what_toml_could_not_say() -> None:
    good = load_board("raspberry_pi_4b_4gb")
    with pytest.raises(ValueError, match="finite"):
        msgspec.structs.replace(good, train_gflops=math.nan)
    with pytest.raises(ValueError, match="negative"):
        msgspec.structs.replace(good, ram_mib=-1)


def test_a_profile_travels_as_msgpack_unchanged() -> None:
    good = load_board("jetson_orin_nano")
    wire = msgspec.msgpack.encode(good)
    assert msgspec.msgpack.decode(wire, type=DeviceProfile) == good
    assert parse_profile(msgspec.msgpack.decode(wire), file="hello") == good


caps = st.builds(
    Caps,
    ram_mib=st.none() | st.integers(1, 10_000),
    cpu_share=st.floats(0.01, 1.0),
    bytes_per_round=st.none() | st.integers(1, 10**9),
    joules_per_round=st.none() | st.floats(0.1, 1e6),
)


@given(caps, caps)
def test_tightening_is_symmetric_and_never_allows_more(one: Caps, other: Caps) -> None:
    both = one.tighten(other)
    assert both == other.tighten(one)
    assert both.tighten(one) == both
    assert both.cpu_share <= one.cpu_share
    assert one.tighten(Caps()) == one
