"""Files of arrays: byte for byte what the safetensors library writes and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError, safe_open

from edge_sdk.tensor_file import (
    TensorFileError,
    read_header,
    read_tensors,
    tensors_to_bytes,
)

KINDS = [
    *("?", "<u1", "<i1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<f8", "<i8"),
    *("<u8", ">i4", ">f8"),
]
TENSORS = st.dictionaries(
    st.text(max_size=6).filter(lambda name: name != "__metadata__"),
    st.sampled_from(KINDS).flatmap(
        lambda kind: arrays.arrays(
            np.dtype(kind), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)
        )
    ),
    max_size=5,
)
WORDS = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)


def same(one: np.ndarray, two: np.ndarray) -> bool:
    little = one.dtype.newbyteorder("<")
    return (
        one.dtype.newbyteorder("<") == two.dtype.newbyteorder("<")
        and one.shape == two.shape
        and one.astype(little).tobytes() == two.astype(little).tobytes()
    )


@given(tensors=TENSORS, words=WORDS)
def test_each_side_reads_what_the_other_writes(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], words: Any
) -> None:
    path = tmp_path_factory.mktemp("both") / "a.safetensors"
    content = tensors_to_bytes(tensors, words)
    path.write_bytes(content)
    with safe_open(path, framework="np") as file:
        assert (file.metadata() or {}) == words
        theirs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told, ours = read_tensors(path)
    assert told == words
    assert ours.keys() == theirs.keys() == tensors.keys()
    for name, array in tensors.items():
        assert same(ours[name], array)
        assert same(theirs[name], array)
        ours[name][...] = array  # it may be written to
    given_ = {name: np.ascontiguousarray(a) for name, a in tensors.items() if a.ndim}
    path.write_bytes(safetensors.numpy.save(given_, words or None))
    body = tensors_to_bytes(given_, words)
    start = read_header(path).start
    assert path.read_bytes()[start:] == body[8 + int.from_bytes(body[:8], "little") :]
    told, ours = read_tensors(path)
    assert told == words
    assert all(same(ours[name], array) for name, array in given_.items())


def header(entries: Any, data: bytes = bytes(8)) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


# What the library takes, or has no array of numpy's for.
OURS = {
    *("another dtype", "a hundred axes", "a dtype that is a list"),
    *("one name twice", "more than there is to say"),
}
A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ODD = {
    "nothing": b"",
    "a length alone": bytes(7),
    "a header beyond the file": (1 << 63).to_bytes(8, "little") + bytes(64),
    "no JSON": header(b"{"),
    "no text": header(b"\xff\xfe"),
    "a list": header([1]),
    "deep": header(b"[" * 100_000),
    "metadata of numbers": header({"__metadata__": {"a": 1}, "a": A}),
    "metadata that are a list": header({"__metadata__": [], "a": A}),
    "an entry that is text": header({"a": "F32"}),
    "another dtype": header({"a": {**A, "dtype": "BF16"}}),
    "a dtype that is a list": header({"a": {**A, "dtype": []}}),
    "a shape below zero": header({"a": {**A, "shape": [-2]}}),
    "a shape of text": header({"a": {**A, "shape": ["2"]}}),
    "a shape beyond its bytes": header({"a": {**A, "shape": [3]}}),
    "a shape of everything": header({"a": {**A, "shape": [1 << 40, 1 << 40]}}),
    "a hundred axes": header({"a": {**A, "shape": [2] + [1] * 100}}),
    "a shape that is true": header({"a": {**A, "shape": [True, 2]}}),
    "one offset": header({"a": {**A, "data_offsets": [8]}}),
    "offsets beyond the file": header({"a": A}, bytes(4)),
    "bytes that are nobody's": header({"a": A}, bytes(12)),
    "two in one place": header({"a": A, "b": A}),
    "a gap": header({"a": {**A, "data_offsets": [4, 12]}}, bytes(12)),
    "one name twice": header(
        b'{"a":%s,"a":%s}' % ((json.dumps(A).encode(),) * 2),
    ),
    "more than there is to say": header({"a": {**A, "more": 1}}),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_keeps_to_no_format_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(ODD[name])
    for read in (read_header, read_tensors):
        with pytest.raises(TensorFileError):
            read(path)
    if name not in OURS:
        with pytest.raises((SafetensorError, OverflowError)):
            safetensors.numpy.load(ODD[name])


def test_what_numpy_does_not_know_is_refused() -> None:
    with pytest.raises(TensorFileError, match="array a of complex64"):
        tensors_to_bytes({"a": np.zeros(2, np.complex64)}, {})
    with pytest.raises(TensorFileError, match="__metadata__"):
        tensors_to_bytes({"__metadata__": np.zeros(2, np.float32)}, {})
