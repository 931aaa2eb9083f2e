"""The rates of `edge_sdk.device.probe.rates`, measured by torch's kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from edge_sdk.device.probe.rates import Rates, median_s

__all__ = ["torch_rates"]

# Larger than the last-level cache of every board of the catalogue but a server's, and
# three of them are 24 MiB: what a probe may hold.
STREAM_FLOATS = 2 * 1024 * 1024
CHANNELS, SIDE, BATCH = 32, 16, 8


def torch_rates(clock: Callable[[], float]) -> Rates:
    """Times four kernels, each five times, medians; about two seconds on a Pi Zero."""
    by = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return Rates(_gflops(clock), _stream(clock), _pool(clock), _call(clock), by)


def _gflops(clock: Callable[[], float]) -> float:
    weight = torch.zeros(CHANNELS, CHANNELS, 3, 3, requires_grad=True)
    inputs = torch.zeros(BATCH, CHANNELS, SIDE, SIDE, requires_grad=True)

    def work() -> None:
        weight.grad = inputs.grad = None
        F.conv2d(inputs, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]

    macs = BATCH * SIDE * SIDE * CHANNELS * CHANNELS * 9
    return 6 * macs / median_s(work, clock) / 1e9


def _stream(clock: Callable[[], float]) -> float:
    one, two = torch.ones(STREAM_FLOATS), torch.ones(STREAM_FLOATS)
    into = torch.empty_like(one)
    seconds = median_s(lambda: torch.add(one, two, out=into), clock)
    return 3 * 4 * STREAM_FLOATS / seconds / 1e9


def _pool(clock: Callable[[], float]) -> float:
    # Random numbers: on zeros the branches would always be predicted.
    noise = torch.Generator().manual_seed(1)
    inputs = torch.rand(4, 16, 32, 32, generator=noise)
    seconds = median_s(lambda: F.max_pool2d(inputs, 2), clock)
    return inputs.numel() / seconds / 1e6


def _call(clock: Callable[[], float]) -> float:
    value = torch.zeros(8, requires_grad=True)
    calls = 20

    def work() -> None:
        value.grad = None
        out = value
        for _ in range(calls):
            out = out * 1.5
        out.sum().backward()  # type: ignore[no-untyped-call]

    return 1e6 * median_s(work, clock) / (2 * calls + 3)
