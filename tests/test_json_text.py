"""JSON that every reader takes, whatever numbers come in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.json_text import finite, floats_from_json, to_json

ROOT = Path(__file__).parents[1]
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.floats(), inner)
    ),
)


def strict(text: str | bytes) -> object:
    """As a browser reads it: NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {text!r}")

    return json.loads(text, parse_constant=refuse)


@given(value=values, indent=st.sampled_from([None, 2]))
def test_any_plain_value_becomes_json_that_a_strict_parser_takes(value, indent) -> None:
    assert strict(to_json(value, indent=indent)) == strict(to_json(finite(value)))


@given(
    value=st.recursive(
        st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_finite_has_the_bytes_it_always_had(value) -> None:
    assert to_json(value) == json.dumps(value)
    assert to_json(value, indent=2) == json.dumps(value, indent=2)


@given(found=st.dictionaries(st.text(), st.floats()))
def test_named_numbers_come_back_and_null_is_nan_again(found) -> None:
    again = floats_from_json(to_json(found))
    assert again.keys() == found.keys()
    for name, value in found.items():
        wanted = value if math.isfinite(value) else math.nan
        assert again[name] == pytest.approx(wanted, abs=0, rel=0, nan_ok=True)


def test_what_an_older_version_wrote_is_read() -> None:
    assert math.isnan(floats_from_json('{"loss": NaN}')["loss"])
    with pytest.raises(ValueError, match="not a JSON object"):
        floats_from_json("[1]")


def test_no_module_of_ours_writes_json_that_may_hold_a_nan() -> None:
    # Text, names and whole numbers alone go through json.dumps itself.
    allowed = {
        "coordinator/broker/config.py",  # a port
        "coordinator/broker/policies.py",  # topics
        "device_profiles/toml_text.py",  # text
        "edge_sdk/device/offline_wheels.py",  # names and digests
        "edge_sdk/checkpoint.py",  # names and shapes; metrics go through to_json
        "edge_sdk/identity/folder.py",  # a number and a key
        "edge_sdk/infer/signature.py",  # text
        "edge_sdk/json_text.py",
        "edge_sdk/datasets/prepare.py",  # digests
        "edge_sdk/training/rules/moving_checkpoint.py",  # whole numbers
        "edge_sdk/deploy/slots.py",  # names
        "edge_sdk/tensor_file.py",  # names, shapes and text
        "export/loaded.py",  # sizes, and what a file itself has as JSON
        "export/measure/timing_child.py",  # clock readings; its memory is measured
    }
    packages = ("coordinator", "device_profiles", "edge_sdk", "export")
    writers = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if "json.dump" in path.read_text(encoding="utf-8")
    }
    assert writers <= allowed
