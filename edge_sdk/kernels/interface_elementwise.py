"""The C interface of fe_elementwise.h as ctypes sees it."""

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
    "ACTIVATIONS",
    "BINARY",
    "ELEMENTWISE_SIGNATURES",
    "ActivationArguments",
    "BinaryArguments",
    "DropoutArguments",
]

_DIMS: Final = 6
# Kinds by name, in the order of the header's enumerations.
ACTIVATIONS: Final = (
    *("affine", "relu", "hardtanh", "leaky_relu", "gelu", "gelu_tanh"),
    *("silu", "hardswish", "hardsigmoid", "sigmoid", "tanh"),
    *("elu", "softplus", "mish", "exp", "log", "sqrt", "reciprocal", "abs"),
    *("power", "sin", "cos", "erf", "atan", "greater", "equal"),
    *("trunc", "floor", "round", "stop"),
)
BINARY: Final = ("add", "subtract", "multiply")


class ActivationArguments(Structure):
    """FeActivation: an activation's kind, size and constants."""

    _fields_ = [
        ("kind", c_int32),
        ("threads", c_int32),
        ("count", c_int64),
        ("a", c_double),
        ("b", c_double),
    ]


class BinaryArguments(Structure):
    """FeBinary: the shape of a sum or product, and each operand's strides."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("kind", "lanes", "blocks", "threads", "dims", "accumulate")
        ),
        ("shape", c_int64 * _DIMS),
        ("stride", c_int64 * _DIMS * 2),
        ("elements", c_int64 * 2),
        ("batched", c_int32 * 2),
    ]


class DropoutArguments(Structure):
    """FeDropout: the key of a mask, and which samples and elements it is drawn for."""

    _fields_ = [
        *((name, c_int32) for name in ("lanes", "blocks", "threads")),
        ("first_sample", c_uint32),
        ("elements", c_int64),
        ("key", c_uint64),
        ("p", c_double),
    ]


_P = c_void_p
ELEMENTWISE_SIGNATURES: Final[dict[str, list[Any]]] = {
    "fe_activation_saves": [POINTER(ActivationArguments)],
    "fe_activation_forward": [POINTER(ActivationArguments), _P, _P],
    "fe_activation_backward": [POINTER(ActivationArguments), _P, _P, _P],
    "fe_accumulate": [c_int64, c_int32, _P, _P],
    "fe_binary_forward": [POINTER(BinaryArguments), _P, _P, _P],
    "fe_binary_backward": [POINTER(BinaryArguments), *[_P] * 5],
    "fe_dropout": [POINTER(DropoutArguments), _P, _P],
    "fe_shared_dropout": [POINTER(DropoutArguments), _P, _P],
    "fe_uniform": [POINTER(DropoutArguments), _P],
    "fe_shared_uniform": [POINTER(DropoutArguments), _P],
}
