"""Pools over any windows, borders, upsampling and the transposed convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.rows.layers import pair
from edge_sdk.program.capture.rows.normed import by_direction
from edge_sdk.program.capture.rows.rearranged.copies import transposed
from edge_sdk.program.capture.steps import reshaped

__all__ = ["ROWS"]

_FEWEST_BYTES = 255  # a winner's tap is one byte
_MODES = {"constant": 0, "reflect": 1, "replicate": 2, "circular": 3}
_NO_WINDOW = (1, 1, 1, 1, 0, 0, 1, 1)


def _axes(call: Node) -> int:
    return 1 if "1d" in call.target else 2


def _max_pool(builder: Builder, call: Node) -> None:
    axes = _axes(call)
    kernel = pair(call["kernel_size"], axes, 1)
    stride = pair(call.get("stride") or call["kernel_size"], axes, 1)
    padding = pair(call.get("padding", 0), axes, 0)
    dilation = pair(call.get("dilation", 1), axes, 1)
    plain = dilation == (1, 1) and not call.get("ceil_mode", False)
    inputs = (builder.tensor(call, "self"),)
    if plain and kernel[0] * kernel[1] < _FEWEST_BYTES:
        builder.emit(call, "max_pool", inputs, ints=(*kernel, *stride, *padding, 0))
        return
    window = (*kernel, *stride, *padding, *dilation)
    builder.emit(call, "region_max", inputs, ints=(*window, 0, 0, 0, 0))


def _average_pool(builder: Builder, call: Node) -> None:
    axes = _axes(call)
    kernel = pair(call["kernel_size"], axes, 1)
    stride = pair(call.get("stride") or call["kernel_size"], axes, 1)
    padding = pair(call.get("padding", 0), axes, 0)
    counted = int(call.get("count_include_pad", True))
    divisor = call.get("divisor_override") or 0
    builder.emit(
        call,
        "region_average",
        (builder.tensor(call, "self"),),
        ints=(*kernel, *stride, *padding, 1, 1, 0, 1, counted, divisor),
    )


def _adaptive_average(builder: Builder, call: Node) -> None:
    inputs, size = (builder.tensor(call, "self"),), call["output_size"]
    if all(n == 1 for n in size):
        builder.emit(call, "mean", inputs, ints=(len(size), 1))
        return
    builder.emit(call, "region_average", inputs, ints=(*_NO_WINDOW, 1, 1, 0, 0))


def _adaptive_max(builder: Builder, call: Node) -> None:
    """The call gives values and indices; there are no indices for anyone to read."""
    for user in call.node.users:
        if user.args[1] == 1 and user.users:
            raise builder.refused(call, "a pool whose indices are read")
    shape = tuple(call.node.meta["val"][0].shape[1:])
    found = builder.step(
        *(call, "region_max", (builder.tensor(call, "self"),), shape),
        ints=(*_NO_WINDOW, 1, 0, 0, 0),
    )
    builder.many[call.node] = (found, found)


def _pool3d(*, average: bool) -> Callable[[Builder, Node], None]:
    """Over height and width of each frame, then over the frames of each pixel."""

    def row(builder: Builder, call: Node) -> None:
        kernel, padding = _three(call["kernel_size"]), _three(call.get("padding", 0))
        stride = _three(call.get("stride") or kernel)
        dilation = _three(call.get("dilation", 1))
        odd = call.get("ceil_mode", False) or call.get("divisor_override")
        if odd or (
            average and any(padding) and not call.get("count_include_pad", True)
        ):
            raise builder.refused(call, "ceil mode, or a divisor of its own")
        source = builder.tensor(call, "self")
        channels, depth, *image = builder.tensors[source].shape
        frames, *out = call.shape[2:]
        name = "region_average" if average else "region_max"
        last = (0, int(average), int(average), 0)
        planes = reshaped(builder, call, source, (channels * depth, *image))
        planes = builder.step(
            *(call, name, (planes,), (channels * depth, *out)),
            ints=(*kernel[1:], *stride[1:], *padding[1:], *dilation[1:], *last),
        )
        pixels = out[0] * out[1]
        planes = reshaped(builder, call, planes, (channels, depth, pixels))
        planes = builder.step(
            *(call, name, (planes,), (channels, frames, pixels)),
            ints=(kernel[0], 1, stride[0], 1, padding[0], 0, dilation[0], 1, *last),
        )
        builder.put(call, reshaped(builder, call, planes, (channels, frames, *out)))

    return row


def _adaptive_average_3d(builder: Builder, call: Node) -> None:
    inputs, size = (builder.tensor(call, "self"),), call["output_size"]
    if any(n != 1 for n in size):
        raise builder.refused(call, "frames in more than one part")
    builder.emit(call, "mean", inputs, ints=(len(size), 1))


def _three(value: Any) -> list[int]:
    own = [value] * 3 if isinstance(value, int) else list(value)
    return own * 3 if len(own) == 1 else own


def _pixel_shuffle(builder: Builder, call: Node) -> None:
    source, by = builder.tensor(call, "self"), call["upscale_factor"]
    channels, height, width = builder.tensors[source].shape
    whole = (channels // by**2, by, by, height, width)
    parts = reshaped(builder, call, source, whole)
    turned = transposed(builder, call, parts, (0, 3, 1, 4, 2))
    builder.put(call, reshaped(builder, call, turned, call.shape[1:]))


def _pixel_unshuffle(builder: Builder, call: Node) -> None:
    source, by = builder.tensor(call, "self"), call["downscale_factor"]
    channels, height, width = builder.tensors[source].shape
    whole = (channels, height // by, by, width // by, by)
    parts = reshaped(builder, call, source, whole)
    turned = transposed(builder, call, parts, (0, 2, 4, 1, 3))
    builder.put(call, reshaped(builder, call, turned, call.shape[1:]))


def _channel_shuffle(builder: Builder, call: Node) -> None:
    source, groups = builder.tensor(call, "self"), call["groups"]
    channels, *rest = builder.tensors[source].shape
    count = 1
    for n in rest:
        count *= n
    whole = (groups, channels // groups, count)
    parts = reshaped(builder, call, source, whole)
    turned = transposed(builder, call, parts, (1, 0, 2))
    builder.put(call, reshaped(builder, call, turned, call.shape[1:]))


def _taps(channels: int, kernel: tuple[int, int]) -> torch.Tensor:
    """Filters that take one value each: of every channel, every place of the kernel."""
    own = torch.eye(kernel[0] * kernel[1]).reshape(-1, 1, *kernel)
    return own.repeat(channels, 1, 1, 1)


def _columns(builder: Builder, call: Node) -> None:
    """F.unfold: what each place of a kernel sees; a convolution by filters of a one."""
    source = builder.tensor(call, "self")
    kernel, stride, padding, dilation = (
        pair(call[n], 2, 1) for n in ("kernel_size", "stride", "padding", "dilation")
    )
    channels, *image = builder.tensors[source].shape
    steps = zip(image, kernel, stride, padding, dilation, strict=True)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in steps]
    filters = builder.constants.hold(_taps(channels, kernel))
    found = builder.step(
        *(call, "conv", (source,), (channels * kernel[0] * kernel[1], *out)),
        parameters=(filters, -1),
        ints=(*stride, *padding, *dilation, channels),
    )
    builder.put(call, reshaped(builder, call, found, call.shape[1:]))


def _folded(builder: Builder, call: Node) -> None:
    """F.fold: the sum of what each place of a kernel gives, by the same filters."""
    source = builder.tensor(call, "self")
    size, kernel, stride, padding, dilation = (
        pair(call[n], 2, 1)
        for n in ("output_size", "kernel_size", "stride", "padding", "dilation")
    )
    steps = list(zip(size, kernel, stride, padding, dilation, strict=True))
    places = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in steps]
    more = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for m, (n, k, s, p, d) in zip(places, steps, strict=True)]  # fmt: skip
    wide = builder.tensors[source].shape[0]
    channels = wide // (kernel[0] * kernel[1])
    source = reshaped(builder, call, source, (wide, *places))
    filters = builder.constants.hold(_taps(channels, kernel))
    found = builder.step(
        *(call, "conv_transpose", (source,), (channels, *size)),
        parameters=(filters, -1),
        ints=(*stride, *padding, *dilation, *more, channels),
    )
    builder.put(call, reshaped(builder, call, found, call.shape[1:]))


def _pad(builder: Builder, call: Node) -> None:
    mode = call.get("mode", "constant")
    given = list(call["pad"])
    axes = len(given) // 2
    source, layout = builder.value(call, "self")
    if mode not in _MODES or not 1 <= axes <= min(3, len(builder.shape(call, "self"))):
        raise builder.refused(call, f"a border {given} of the kind {mode}")
    if layout.axis is not None and layout.axis >= len(call.shape) - axes:
        raise builder.refused(call, "a border along the batch")
    # Torch names the last axis first.
    before, after = given[0::2][::-1], given[1::2][::-1]
    none = [0] * (3 - axes)
    builder.emit(
        call,
        "pad",
        (source,),
        layout=layout,
        ints=(*none, *before, *none, *after, axes, _MODES[mode]),
        reals=(call.get("value", 0.0),),
    )


def _upsample(builder: Builder, call: Node) -> None:
    factors = list(call.get("scale_factors") or (0.0, 0.0))
    scales = [1 / f if f else 0.0 for f in factors]
    if _axes(call) == 1:
        scales = [0.0, scales[-1]]
    linear = int("linear" in call.target)
    builder.emit(
        call,
        "upsample",
        (builder.tensor(call, "input"),),
        ints=(linear, int(call.get("align_corners", False))),
        reals=(scales[0], scales[1]),
    )


def _conv_transpose(builder: Builder, call: Node) -> None:
    axes = _axes(call)
    builder.emit(
        call,
        "conv_transpose",
        (builder.tensor(call, "input"),),
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
        ints=(
            *pair(call["stride"], axes, 1),
            *pair(call["padding"], axes, 0),
            *pair(call["dilation"], axes, 1),
            *pair(call["output_padding"], axes, 0),
            call["groups"],
        ),
    )


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "max_pool1d": _max_pool,
    "max_pool2d": _max_pool,
    "avg_pool1d": _average_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool1d": _adaptive_average,
    "adaptive_avg_pool2d": _adaptive_average,
    "adaptive_max_pool1d": _adaptive_max,
    "adaptive_max_pool2d": _adaptive_max,
    "max_pool3d": _pool3d(average=False),
    "avg_pool3d": _pool3d(average=True),
    "adaptive_avg_pool3d": _adaptive_average_3d,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "im2col": _columns,
    "col2im": _folded,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "upsample_nearest1d": _upsample,
    "upsample_nearest2d": _upsample,
    "upsample_linear1d": _upsample,
    "upsample_bilinear2d": _upsample,
    "conv_transpose1d": by_direction(_conv_transpose, transposed=True),
    "conv_transpose2d": by_direction(_conv_transpose, transposed=True),
}
