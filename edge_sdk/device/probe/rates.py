"""Short timings of what training is made of: where the calibration starts from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

__all__ = ["Rates", "measure_rates"]

REPEATS = 5
# Larger than the last-level cache of every board of the catalogue but a server's, and
# three of them are 24 MiB: what a probe may hold.
STREAM_FLOATS = 2 * 1024 * 1024
CHANNELS, SIDE, BATCH = 32, 16, 8


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the processor by kind of work, at torch's present number of threads.

    Attributes:
        train_gflops: A 3x3 convolution forward and backward.
        memory_gb_s: Adding two arrays into a third: bytes read and written.
        pool_m_s: Millions of elements a second that max pooling looks at.
        call_us: One small operator forward and backward, microseconds a call.
    """

    train_gflops: float
    memory_gb_s: float
    pool_m_s: float
    call_us: float


def measure_rates(clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Times four kernels, each five times, medians; about two seconds on a Pi Zero."""
    return Rates(_gflops(clock), _stream(clock), _pool(clock), _call(clock))


def _median(work: Callable[[], object], clock: Callable[[], float]) -> float:
    work()  # the first time compiles kernels and touches fresh pages
    times = []
    for _ in range(REPEATS):
        began = clock()
        work()
        times.append(clock() - began)
    return max(statistics.median(times), 1e-7)


def _gflops(clock: Callable[[], float]) -> float:
    weight = torch.zeros(CHANNELS, CHANNELS, 3, 3, requires_grad=True)
    inputs = torch.zeros(BATCH, CHANNELS, SIDE, SIDE, requires_grad=True)

    def work() -> None:
        weight.grad = inputs.grad = None
        F.conv2d(inputs, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]

    macs = BATCH * SIDE * SIDE * CHANNELS * CHANNELS * 9
    return 6 * macs / _median(work, clock) / 1e9


def _stream(clock: Callable[[], float]) -> float:
    one, two = torch.ones(STREAM_FLOATS), torch.ones(STREAM_FLOATS)
    into = torch.empty_like(one)
    seconds = _median(lambda: torch.add(one, two, out=into), clock)
    return 3 * 4 * STREAM_FLOATS / seconds / 1e9


def _pool(clock: Callable[[], float]) -> float:
    # Random numbers: on zeros the branches would always be predicted.
    noise = torch.Generator().manual_seed(1)
    inputs = torch.rand(4, 16, 32, 32, generator=noise)
    seconds = _median(lambda: F.max_pool2d(inputs, 2), clock)
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

    return 1e6 * _median(work, clock) / (2 * calls + 3)
