"""The C interface of fe_sequence.h as ctypes sees it."""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    c_double,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, Final

__all__ = [
    "SEQUENCE_SIGNATURES",
    "AttentionArguments",
    "AxisArguments",
    "CopyArguments",
    "LayerNormArguments",
    "ProductArguments",
    "WindowsArguments",
]

_DIMS: Final = 6
_BATCH = tuple((name, c_int32) for name in ("lanes", "blocks", "threads"))


class LayerNormArguments(Structure):
    """FeLayerNorm: rows per sample and their width."""

    _fields_ = [
        ("samples", c_int32),
        *_BATCH,
        *((name, c_int32) for name in ("rows", "width", "accumulate")),
        ("eps", c_double),
    ]


class AxisArguments(Structure):
    """FeAxis: a softmax or sum along the middle of three axes."""

    _fields_ = [
        *_BATCH,
        ("logarithm", c_int32),
        *((name, c_int64) for name in ("outer", "count", "inner")),
        ("factor", c_double),
    ]


class AttentionArguments(Structure):
    """FeAttention: heads, lengths and widths, and the key of its dropout."""

    _fields_ = [
        *_BATCH,
        *(
            (name, c_int32)
            for name in ("heads", "queries", "keys", "width", "value_width", "causal")
        ),
        ("first_sample", c_uint32),
        ("key", c_uint64),
        ("p", c_double),
        ("scale", c_double),
    ]


class CopyArguments(Structure):
    """FeCopy: a shape, and strides and offsets on both sides."""

    _fields_ = [
        *_BATCH,
        ("dims", c_int32),
        ("shape", c_int64 * _DIMS),
        ("stride", c_int64 * _DIMS * 2),
        ("offset", c_int64 * 2),
        ("elements", c_int64 * 2),
    ]


class ProductArguments(Structure):
    """FeProduct: matrices of a sample, and their sizes."""

    _fields_ = [
        *_BATCH,
        *((name, c_int32) for name in ("matrices", "rows", "depth", "columns")),
    ]


class WindowsArguments(Structure):
    """FeWindows: rows of a sample, their length, and the windows of each."""

    _fields_ = [
        *_BATCH,
        *((name, c_int64) for name in ("outer", "length", "size", "hop")),
    ]


_P = c_void_p
SEQUENCE_SIGNATURES: Final[dict[str, list[Any]]] = {
    "fe_layer_norm_forward": [POINTER(LayerNormArguments), *[_P] * 6],
    "fe_layer_norm_backward": [POINTER(LayerNormArguments), *[_P] * 8],
    "fe_softmax_forward": [POINTER(AxisArguments), _P, _P],
    "fe_softmax_backward": [POINTER(AxisArguments), _P, _P, _P],
    "fe_sum_forward": [POINTER(AxisArguments), _P, _P],
    "fe_sum_backward": [POINTER(AxisArguments), _P, _P],
    "fe_attention_forward": [POINTER(AttentionArguments), *[_P] * 5],
    "fe_attention_backward": [POINTER(AttentionArguments), *[_P] * 9],
    "fe_product_forward": [POINTER(ProductArguments), _P, _P, _P],
    "fe_product_backward": [POINTER(ProductArguments), *[_P] * 5],
    "fe_choice_forward": [c_int64, c_int32, *[_P] * 4],
    "fe_choice_backward": [c_int64, c_int32, *[_P] * 4],
    "fe_copy": [POINTER(CopyArguments), _P, _P],
    "fe_windows": [POINTER(WindowsArguments), _P, _P],
    "fe_overlap_add": [POINTER(WindowsArguments), _P, _P],
    "fe_fill": [c_int64, c_double, _P],
}
