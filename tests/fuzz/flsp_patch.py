"""Changes single numbers of a `.flsp` file and repairs its checksum."""

from __future__ import annotations

import struct
import zlib

_TABLES = {"buffer": (40, 24), "weight": (48, 64), "op": (56, 72)}
_HEADER = {"weights": (24, "<I"), "ops": (28, "<I"), "arena": (32, "<Q")}
_FIELDS = {
    "buffer": {"channels": 0, "height": 4, "width": 8, "reserved": 12, "offset": 16},
    "weight": {
        "encoding": 0, "type": 4, "rows": 8, "columns": 12, "entries": 16,
        "values_at": 24, "gaps_at": 32, "counts_at": 40, "scales_at": 48,
        "bias_at": 56,
    },
    "op": {
        name: 4 * index
        for index, name in enumerate(
            ("kind", "in", "in2", "out", "weight", "kernel_h", "kernel_w", "stride_h",
             "stride_w", "pad_top", "pad_left", "dilation_h", "dilation_w", "groups",
             "extra", "input_scale", "low", "high")
        )
    },
}  # fmt: skip


def place(content: bytes, name: str) -> tuple[int, str]:
    """Where "op.0.pad_top", "buffer.1.width", "weight.0.entries" or "arena" lies."""
    if name in _HEADER:
        return _HEADER[name]
    kind, index, field = name.split(".")
    at, size = _TABLES[kind]
    (start,) = struct.unpack_from("<Q", content, at)
    offset = _FIELDS[kind][field]
    wide = field == "offset" or (kind == "weight" and offset >= 16)
    code = "<Q" if wide else "<f" if field in {"input_scale", "low", "high"} else "<i"
    return start + int(index) * size + offset, code


def patched(content: bytes, numbers: dict[str, float]) -> bytes:
    """The file with these numbers, sealed again."""
    changed = bytearray(content)
    for name, value in numbers.items():
        at, code = place(content, name)
        struct.pack_into(code, changed, at, value)
    struct.pack_into("<I", changed, 16, zlib.crc32(changed[80:]))
    return bytes(changed)
