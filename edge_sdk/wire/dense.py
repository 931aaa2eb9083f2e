"""Entries of the dense remainder, each in a codec of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.quantize import Toward, decode, encode

__all__ = [
    "Entry",
    "all_from_wire",
    "from_wire",
    "is_whole",
    "to_wire",
]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One ``state_dict`` entry on the wire.

    Attributes:
        codec: Of its data; ``i8`` is 64-bit integers, exact.
        shape: Its shape.
        data: Little-endian, C order.
    """

    codec: Literal["i8", "fp32", "fp16", "int8"]
    shape: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=32)
    ]
    data: bytes


def is_whole(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype travels as int64: booleans, and integers of any width.

    Example:
        >>> [is_whole(np.dtype(d)) for d in ("bool", "uint8", "int64", "float32")]
        [True, True, True, False]
    """
    return dtype.kind in "biu"


def to_wire(
    name: str, array: NDArray[Any], codec: str, rng: np.random.Generator | None
) -> Entry:
    """An entry in the payload's codec, or a more exact one where its kind asks for it.

    Args:
        name: Its name, which says what it is.
        array: Floats, or whole numbers of any width, booleans among them.
        codec: The payload's.
        rng: As of `edge_sdk.wire.values.pack_values`.

    Raises:
        LocalProtocolError: If it is neither.
    """
    shape = list(array.shape)
    if is_whole(array.dtype):
        return Entry("i8", shape, np.ascontiguousarray(array, "<i8").tobytes())
    if array.dtype.kind != "f":
        raise LocalProtocolError(f"entry {name} has dtype {array.dtype}; float or int")
    if array.dtype != np.float32:  # as the user wants it, so as exact as can be
        codec = "fp32"
    toward: Toward = "nearest"
    if codec != "fp32" and name.endswith(("running_mean", "running_var")):
        codec = "fp16"
    if name.endswith("running_var"):
        # Rounded base plus rounded change must never be a negative variance.
        toward = "down" if rng is None else "up"
    kind: Literal["fp32", "fp16", "int8"] = (
        "fp32" if codec == "fp32" else "fp16" if codec == "fp16" else "int8"
    )
    return Entry(kind, shape, encode(kind, array, rng=rng, toward=toward))


def from_wire(name: str, entry: Entry) -> NDArray[Any]:
    """The array of an entry: float32 or int64.

    Raises:
        RemoteProtocolError: If its data are not of its shape, or not finite.
    """
    count = math.prod(entry.shape)
    if entry.codec == "i8" and 8 * count != len(entry.data):
        raise RemoteProtocolError(
            f"entry {name} has {len(entry.data)} bytes for {count} integers"
        )
    try:
        if entry.codec != "i8":
            return decode(entry.codec, entry.data, count).reshape(entry.shape)
        integers = np.frombuffer(entry.data, "<i8").astype(np.int64, copy=False)
        return integers.reshape(entry.shape)
    except (RemoteProtocolError, ValueError) as error:  # too long an axis for numpy
        raise RemoteProtocolError(f"entry {name}: {error}") from error


def all_from_wire(entries: Mapping[str, Entry]) -> dict[str, NDArray[Any]]:
    """As `from_wire` for each entry; floats are looked at as a whole.

    A small array costs ten times its bytes in calls: those of a model of six biases
    were a tenth of a round without training.

    Raises:
        RemoteProtocolError: As `from_wire`, with the entry's name.
    """
    floats = {n: e for n, e in entries.items() if e.codec == "fp32"}
    if any(4 * math.prod(e.shape) != len(e.data) for e in floats.values()):
        return {name: from_wire(name, entry) for name, entry in entries.items()}
    whole = np.frombuffer(b"".join([e.data for e in floats.values()]), "<f4")
    if not np.isfinite(whole).all():
        return {name: from_wire(name, entry) for name, entry in entries.items()}
    whole, start = whole.astype(np.float32, copy=False), 0
    found: dict[str, NDArray[Any]] = {}
    for name, entry in entries.items():
        if name not in floats:
            found[name] = from_wire(name, entry)
            continue
        stop = start + len(entry.data) // 4
        try:
            found[name] = whole[start:stop].reshape(entry.shape)
        except ValueError as error:  # too long an axis for numpy
            raise RemoteProtocolError(f"entry {name}: {error}") from error
        start = stop
    return found
