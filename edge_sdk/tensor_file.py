"""Files of named arrays in the safetensors format, written and read by numpy alone.

A file is the header's length (8 bytes, little-endian), the header (JSON: metadata, and
of each array its dtype, shape and place), and the arrays' bytes. Every length of a
stranger's file is checked before anything is allocated.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TensorFileError",
    "TensorHeader",
    "read_header",
    "read_tensors",
    "tensors_to_bytes",
]

# In the format's order: arrays of the last come first, so that all are aligned.
_DTYPES: Final = {
    name: np.dtype(f"<{kind}")
    for name, kind in {
        "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "i2", "U16": "u2", "F16": "f2",
        "I32": "i4", "U32": "u4", "F32": "f4", "F64": "f8", "I64": "i8", "U64": "u8",
    }.items()
}  # fmt: skip
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER: Final = {name: at for at, name in enumerate(_DTYPES)}
_METADATA = "__metadata__"
_MOST_HEADER = 100_000_000  # bytes, the format's own limit
_MOST_AXES = 32  # of an array of numpy 1


class TensorFileError(ValueError):
    """A file that does not keep to the format; says where."""


@dataclass(frozen=True)
class _Place:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    @property
    def end(self) -> int:
        return self.begin + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class TensorHeader:
    """The header of a file.

    Attributes:
        metadata: Plain words beside the arrays.
        places: Of each array by its name.
        start: Where the arrays' bytes begin.
    """

    metadata: dict[str, str]
    places: Mapping[str, _Place]
    start: int


def tensors_to_bytes(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> bytes:
    """The file of some arrays; equal arrays and metadata give equal bytes.

    Args:
        tensors: Of booleans, integers, or floats of 16 to 64 bits.
        metadata: Plain words.

    Raises:
        TensorFileError: If an array has another dtype.
    """
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    kinds = {}
    for name, array in tensors.items():
        kind = _NAMES.get(array.dtype.newbyteorder("<"))
        if kind is None or name == _METADATA:
            raise TensorFileError(f"array {name} of {array.dtype} has no place here")
        kinds[name] = kind
    ordered = sorted(tensors, key=lambda name: (-_ORDER[kinds[name]], name))
    begin = 0
    for name in ordered:
        end = begin + tensors[name].nbytes
        shape = list(tensors[name].shape)
        entries[name] = {
            "dtype": kinds[name],
            "shape": shape,
            "data_offsets": [begin, end],
        }
        begin = end
    header = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # arrays stay aligned
    whole = [len(header).to_bytes(8, "little"), header]
    whole += [
        tensors[name].astype(_DTYPES[kinds[name]], copy=False).tobytes()
        for name in ordered
    ]
    return b"".join(whole)


def read_header(path: Path) -> TensorHeader:
    """The header of a file, checked; its arrays are not read.

    Raises:
        OSError: If the file cannot be read.
        TensorFileError: If it does not keep to the format.
    """
    with path.open("rb") as file:
        return _header(file)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and arrays of a file; the arrays may be written to.

    Raises:
        OSError: If the file cannot be read.
        TensorFileError: If it does not keep to the format.
    """
    with path.open("rb") as file:
        header = _header(file)
        found = {}
        for name, place in header.places.items():
            file.seek(header.start + place.begin)
            count = math.prod(place.shape)
            array = np.fromfile(file, place.dtype, count)
            if array.size != count:
                raise TensorFileError(f"the file ends within array {name}")
            found[name] = array.reshape(place.shape).astype(
                place.dtype.newbyteorder("="), copy=False
            )
    return header.metadata, found


def _header(file: BinaryIO) -> TensorHeader:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MOST_HEADER):
        raise TensorFileError("the header does not fit into the file")
    try:
        entries = json.loads(file.read(length), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"the header is no JSON: {error}") from error
    if not isinstance(entries, dict):
        raise TensorFileError("the header is not a JSON object")
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(word, str) for word in metadata.values()
    ):
        raise TensorFileError("the metadata are not words")
    places = {name: _place(name, entry) for name, entry in entries.items()}
    at = 0
    for name, place in sorted(places.items(), key=lambda n: (n[1].begin, n[1].end)):
        if place.begin != at:
            raise TensorFileError(f"array {name} does not follow the one before it")
        at = place.end
    if at != size - 8 - length:
        raise TensorFileError(
            f"the arrays take {at} bytes, the file has {size - 8 - length} of them"
        )
    return TensorHeader(metadata, places, 8 + length)


def _place(name: str, entry: object) -> _Place:
    wrong = TensorFileError(f"array {name} has no sound dtype, shape and place")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise TensorFileError(f"array {name} is of the dtype {kind!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise wrong
    place = _Place(_DTYPES[kind], tuple(shape), offsets[0])
    if len(shape) > _MOST_AXES or place.end != offsets[1]:
        raise wrong
    return place


def _are_sizes(given: object) -> bool:
    return isinstance(given, list) and all(
        type(n) is int and 0 <= n < 1 << 62 for n in given
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise TensorFileError("the header names an array twice")
    return found
