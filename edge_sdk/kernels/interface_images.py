"""The C interface of fe_images.h as ctypes sees it."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int32, c_void_p
from typing import Any

__all__ = [
    "IMAGE_SIGNATURES",
    "PadArguments",
    "RegionPoolArguments",
    "UpsampleArguments",
]


class RegionPoolArguments(Structure):
    """FeRegionPool: a pool's planes and windows, which may leave the plane."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("lanes", "planes", "threads", "in_h", "in_w", "out_h", "out_w"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
            *("dilation_h", "dilation_w"),
            *("adaptive", "average", "include_pad", "divisor"),
        )
    ]


class PadArguments(Structure):
    """FePad: borders around the last three axes."""

    _fields_ = [
        *((name, c_int32) for name in ("lanes", "planes", "threads")),
        *((name, c_int32 * 3) for name in ("size", "before", "after")),
        ("mode", c_int32),
        ("value", c_double),
    ]


class UpsampleArguments(Structure):
    """FeUpsample: a plane's size before and after."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                *("lanes", "planes", "threads", "in_h", "in_w", "out_h", "out_w"),
                *("linear", "align_corners"),
            )
        ),
        ("scale_h", c_double),
        ("scale_w", c_double),
    ]


_P = c_void_p  # FeStructure and FeConv too
IMAGE_SIGNATURES: dict[str, list[Any]] = {
    "fe_region_pool_forward": [POINTER(RegionPoolArguments), _P, _P],
    "fe_region_pool_backward": [POINTER(RegionPoolArguments), _P, _P, _P],
    "fe_pad_forward": [POINTER(PadArguments), _P, _P],
    "fe_pad_backward": [POINTER(PadArguments), _P, _P],
    "fe_upsample_forward": [POINTER(UpsampleArguments), _P, _P],
    "fe_upsample_backward": [POINTER(UpsampleArguments), _P, _P],
    "fe_conv_transpose_forward": [_P, _P, *[_P] * 4],
    "fe_conv_transpose_backward": [_P, _P, *[_P] * 6, c_int32],
}
