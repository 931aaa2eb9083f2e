"""Short timings of what training is made of: where the calibration starts from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_sdk.tasks.without_torch.halves import torch_is_here

__all__ = ["Rates", "measure_rates", "median_s"]

REPEATS = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the processor by kind of work.

    Attributes:
        train_gflops: A 3x3 convolution forward and backward; without torch a product
            of matrices.
        memory_gb_s: Adding two arrays into a third: bytes read and written.
        pool_m_s: Millions of elements a second that max pooling looks at.
        call_us: One small operator forward and backward, microseconds a call.
        measured_by: What computed, and on how many threads.
    """

    train_gflops: float
    memory_gb_s: float
    pool_m_s: float
    call_us: float
    measured_by: str


def measure_rates(clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Times four kinds of work by torch, or by numpy where there is none."""
    if torch_is_here():
        from edge_sdk.device.probe.torch_rates import torch_rates  # noqa: PLC0415 - torch

        return torch_rates(clock)
    return array_rates(clock)


def array_rates(clock: Callable[[], float]) -> Rates:
    """The rates by numpy; arithmetic by its product of matrices, on its threads."""
    rng = np.random.default_rng(1)
    side, floats, images = 256, 2 * 1024 * 1024, (4, 16, 32, 32)
    one, two = rng.random((2, side, side), np.float32)
    out = np.empty_like(one)
    gflops = 2 * side**3 / median_s(lambda: np.matmul(one, two, out=out), clock) / 1e9
    left, right, into = np.ones((3, floats), np.float32)
    stream = 3 * 4 * floats / median_s(lambda: np.add(left, right, out=into), clock)
    image = rng.random(images, np.float32)

    def pool() -> None:
        rows = np.maximum(image[..., ::2, :], image[..., 1::2, :])
        np.maximum(rows[..., ::2], rows[..., 1::2])

    small = np.zeros(8, np.float32)
    calls = 20

    def call() -> None:
        for _ in range(2 * calls):
            np.multiply(small, 1.5, out=small)

    return Rates(
        gflops,
        stream / 1e9,
        image.size / median_s(pool, clock) / 1e6,
        1e6 * median_s(call, clock) / (2 * calls),
        f"numpy {np.__version__}, no torch",
    )


def median_s(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Median seconds of a piece of work, run five times after once to warm up."""
    work()  # the first time compiles kernels and touches fresh pages
    times = []
    for _ in range(REPEATS):
        began = clock()
        work()
        times.append(clock() - began)
    return max(statistics.median(times), 1e-7)
