"""A device's own values in a delivered native model.

The exporter says in a file's metadata where the entries lie that are personal in
training. Beside the delivered file, which stays as it was signed, the board writes one
that differs from it there and nowhere else.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import ExportError

__all__ = ["COUNTER", "HEADER", "OWN", "check_own", "with_own"]

OWN = "own.flsp"  # beside the files of a bundle; no manifest lists it
HEADER = struct.Struct("<4sIQIIIIQQQQQQ")  # src/format.h
_CRC = 16  # where it lies, after the length
COUNTER = "num_batches_tracked"  # no inference reads it


def with_own(delivered: bytes, own: Mapping[str, NDArray[Any]]) -> bytes:
    """The delivered file with a device's own values in it.

    Args:
        delivered: A ``.flsp`` file that has been checked.
        own: ``state_dict`` name to the device's values.

    Raises:
        ExportError: If the file has no place for one of them: it was folded into
            others, or rounded, or the model is of another run.
    """
    places, content = _places(delivered), bytearray(delivered)
    for name, array in own.items():
        if name.rpartition(".")[2] == COUNTER:
            continue
        place = places.get(name)
        if place is None or place[1] != array.size:
            raise ExportError(
                f"the delivered model has no place for this device's own {name}",
                remedy="Export format native, which has one for linear layers, from a "
                "model of this run.",
            )
        values = np.ascontiguousarray(array, "<f4").tobytes()
        content[place[0] : place[0] + len(values)] = values
    crc = zlib.crc32(memoryview(content)[HEADER.size :])
    content[_CRC : _CRC + 4] = crc.to_bytes(4, "little")
    return bytes(content)


def check_own(delivered: bytes, own: bytes) -> None:
    """Refuses a file that differs from the delivered one in more than own values.

    Raises:
        ExportError: If it does.
    """
    ours, theirs = bytearray(delivered), bytearray(own)
    for at, count in _places(delivered).values():
        ours[at : at + 4 * count] = theirs[at : at + 4 * count]
    ours[_CRC : _CRC + 4] = theirs[_CRC : _CRC + 4]
    if ours != theirs:
        raise ExportError(
            f"{OWN} is not the delivered model with this device's own values",
            remedy=f"Delete {OWN}; the next delivery writes it anew.",
        )


def _places(content: bytes) -> dict[str, tuple[int, int]]:
    """Personal entries of a file: byte of the first value, and how many there are.

    Raises:
        ExportError: If its metadata is damaged, or a place is outside of the weights.
    """
    try:
        *_, weights, _, meta, size = HEADER.unpack_from(content)
        said = json.loads(content[meta : meta + size]).get("personal", {})
        found = {str(n): (int(at), int(count)) for n, (at, count) in said.items()}
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"the model's metadata is damaged: {error}") from error
    for name, (at, count) in found.items():
        if at < HEADER.size or at % 4 or count < 0 or at + 4 * count > weights:
            raise ExportError(f"the model's metadata places {name} outside its weights")
    return found
