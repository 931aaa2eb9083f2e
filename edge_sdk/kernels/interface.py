"""The kernels' C interface, fe.h, as ctypes sees it."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int32, c_void_p
from typing import Any

from edge_sdk.kernels.interface_elementwise import ELEMENTWISE_SIGNATURES
from edge_sdk.kernels.interface_images import IMAGE_SIGNATURES
from edge_sdk.kernels.interface_loss import LOSS_SIGNATURES
from edge_sdk.kernels.interface_sequence import SEQUENCE_SIGNATURES

__all__ = [
    "SIGNATURES",
    "ChannelNormArguments",
    "ConvArguments",
    "DepthwiseArguments",
    "EmbeddingArguments",
    "NormArguments",
    "PoolArguments",
    "PrologueArguments",
    "RecurrentArguments",
]


class ConvArguments(Structure):
    """FeConv of fe.h: a convolution's batch and geometry."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("samples", "lanes", "blocks", "threads", "in_h", "in_w"),
            *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
        )
    ]


class PrologueArguments(Structure):
    """FePrologue of fe.h: what happens to a conv's input on the way in."""

    _fields_ = [
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("residual", c_void_p),
        ("relu", c_int32),
    ]


class NormArguments(Structure):
    """FeNorm of fe.h: a normalisation's batch and constants."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                *("samples", "lanes", "blocks", "threads"),
                *("channels", "pixels", "groups", "training"),
            )
        ),
        ("momentum", c_double),
        ("eps", c_double),
        ("activation", c_int32),
    ]


class DepthwiseArguments(Structure):
    """FeDepthwise of fe_depthwise.h: a depth-wise convolution's batch and geometry."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("samples", "lanes", "blocks", "threads", "channels", "multiplier"),
            *("in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w"),
            *("pad_h", "pad_w", "dilation_h", "dilation_w", "training", "accumulate"),
        )
    ]


class ChannelNormArguments(Structure):
    """FeChannelNorm of fe_depthwise.h: a batch norm and activation beside it."""

    _fields_ = [
        *((name, c_int32) for name in ("norm", "activation")),
        *(
            (name, c_void_p)
            for name in (
                *("gamma", "beta", "running_mean", "running_var"),
                *("saved", "dgamma", "dbeta"),
            )
        ),
        ("momentum", c_double),
        ("eps", c_double),
    ]


class PoolArguments(Structure):
    """FePool of fe.h: a pooling's planes and windows."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("lanes", "planes", "threads", "in_h", "in_w", "out_h", "out_w"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "relu"),
        )
    ]


class EmbeddingArguments(Structure):
    """FeEmbedding of fe_embedding.h: a batch of tokens."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("samples", "lanes", "blocks", "threads"),
            *("positions", "padding", "accumulate"),
        )
    ]


class RecurrentArguments(Structure):
    """FeRecurrent of fe_recurrent.h: one direction of one recurrent layer."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("lanes", "blocks", "threads", "cell", "steps", "hidden"),
            *("reverse", "features", "offset", "accumulate"),
        )
    ]


_P, _I, _PRO = c_void_p, c_int32, POINTER(PrologueArguments)
SIGNATURES: dict[str, list[Any]] = {
    "fe_structure_create": [_P, *[_I] * 6, POINTER(c_void_p)],
    "fe_conv_forward": [_P, POINTER(ConvArguments), _P, _PRO, *[_P] * 3],
    "fe_conv_backward": [_P, POINTER(ConvArguments), _P, _PRO, *[_P] * 5],
    "fe_linear_forward": [_P, *[_I] * 3, *[_P] * 4],
    "fe_linear_backward": [_P, *[_I] * 3, *[_P] * 6],
    "fe_norm_prepare": [POINTER(NormArguments), *[_P] * 9],
    "fe_norm_apply": [POINTER(NormArguments), _P, _PRO, _P],
    "fe_norm_backward": [POINTER(NormArguments), *[_P] * 10],
    "fe_norm_forward": [POINTER(NormArguments), *[_P] * 11],
    "fe_norm_activation_backward": [POINTER(NormArguments), *[_P] * 10],
    "fe_depthwise_forward": [
        *(_P, POINTER(DepthwiseArguments)),
        *(POINTER(ChannelNormArguments), POINTER(ChannelNormArguments), *[_P] * 4),
    ],
    "fe_depthwise_backward": [
        *(_P, POINTER(DepthwiseArguments)),
        *(POINTER(ChannelNormArguments), POINTER(ChannelNormArguments), *[_P] * 7),
    ],
    "fe_max_pool_forward": [POINTER(PoolArguments), *[_P] * 3],
    "fe_max_pool_backward": [POINTER(PoolArguments), *[_P] * 3],
    **ELEMENTWISE_SIGNATURES,
    "fe_embedding_forward": [_P, POINTER(EmbeddingArguments), *[_P] * 3],
    "fe_embedding_backward": [_P, POINTER(EmbeddingArguments), *[_P] * 3],
    "fe_recurrent_forward": [_P, POINTER(RecurrentArguments), *[_P] * 9],
    "fe_recurrent_backward": [_P, POINTER(RecurrentArguments), *[_P] * 13],
    "fe_recurrent_saved": [_I, _I],
    **IMAGE_SIGNATURES,
    **LOSS_SIGNATURES,
    **SEQUENCE_SIGNATURES,
}
