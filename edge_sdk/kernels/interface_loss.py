"""The C interface of fe_loss.h as ctypes sees it."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_void_p
from typing import Any, Final

__all__ = [
    "LOSS_SIGNATURES",
    "ClassLossArguments",
    "ValueLossArguments",
]


class ClassLossArguments(Structure):
    """FeClassLoss: cross-entropy or negative log-likelihood of one batch."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                *("samples", "lanes", "blocks", "threads"),
                *("classes", "positions", "log_probabilities"),
            )
        ),
        ("ignore", c_int64),
        ("smoothing", c_double),
    ]


class ValueLossArguments(Structure):
    """FeValueLoss: a loss of each value by itself."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("kind", "samples", "lanes", "blocks", "threads")
        ),
        ("count", c_int64),
        ("delta", c_double),
    ]


_P, _REAL = c_void_p, c_double
_SUM = [POINTER(c_double), POINTER(c_int32)]
LOSS_SIGNATURES: Final[dict[str, list[Any]]] = {
    "fe_class_loss_weight": [POINTER(ClassLossArguments), _P, _P, *_SUM],
    "fe_class_loss_forward": [POINTER(ClassLossArguments), *[_P] * 4, *_SUM],
    "fe_class_loss_backward": [POINTER(ClassLossArguments), *[_P] * 4, _REAL, _P],
    "fe_value_loss_forward": [POINTER(ValueLossArguments), *[_P] * 3, *_SUM],
    "fe_value_loss_backward": [POINTER(ValueLossArguments), *[_P] * 3, _REAL, _P],
}
