"""Peak memory of training, by engine."""

from __future__ import annotations

from device_profiles.schema import Engine
from device_profiles.workload import NetworkPass, Workload

__all__ = ["MIB", "RUNTIME_MIB", "RUNTIME_WITHOUT_TORCH_MIB", "peak_mib"]

MIB = 1024 * 1024

# Anonymous memory of a process after `import torch` and a first training step (torch
# 2.13 CPU, x86-64); its 98 MiB of mapped library pages can be dropped by the kernel.
RUNTIME_MIB = 214
# The same of an agent without torch, its task's module and the runtime of programs
# loaded (x86-64, 2026-11-28: 35 to 39).
RUNTIME_WITHOUT_TORCH_MIB = 40
# Growth over that, fitted to seven networks at two batch sizes and three densities
# (masked engine, torch 2.13 CPU): all within 14 %, most within 5 %.
# Tensors saved for the backward pass stand beside their gradients and workspaces.
SAVED_COPIES = 1.7
# The frozen dense weight, the one scattered from the kept values, its gradient.
MASKED_COPIES = 3.1
# The largest layer once more while it is copied, and its layout for the kernel.
LARGEST_COPIES = 1.6
# Value, gradient, int64 position and momentum of a kept weight.
MASKED_KEPT_BYTES = 16
# The sparse engine's kept weight: value, gradient, momentum, and the mask's index:
# int32 column and offset codes of both passes.
SPARSE_KEPT_BYTES = 28
# Where saved tensors were not counted: an activation, and its gradient beside it.
ACTIVATION_COPIES = 2
# Value, gradient and momentum of what stays dense.
DENSE_BYTES = 12
# A smaller network's, which no optimizer moves: the same without momentum, and where
# among the own network's values each of them lies.
BESIDE_KEPT_BYTES, BESIDE_DENSE_BYTES = 28, 8
# Before training the model stands there dense, while its mask is drawn and packed: a
# float and the mask's byte for each weight, and the largest layer's positions.
SETUP_BYTES, SETUP_LARGEST_BYTES = 5, 4


def peak_mib(
    workload: Workload,
    density: float,
    payload_bytes: int,
    engine: Engine,
    *,
    batch: int | None = None,
    runtime_mib: float | None = None,
) -> float:
    """Most memory the agent holds in a round.

    Args:
        workload: What it trains.
        density: Kept share of the masked weights.
        payload_bytes: The packed update; it and its base stand beside the model.
        engine: Which training engine runs.
        batch: Examples that go through at once; the workload's own if not given.
        runtime_mib: The process before the model; `RUNTIME_MIB` if not given.
    """
    size = min(workload.batch if batch is None else batch, workload.examples)
    own, *smaller = workload.passes_at(density)
    training = _state_bytes(workload, density, engine)
    training += sum(_beside_bytes(workload, one, engine) for one in smaller)
    widths = own.width + sum(one.width for one in smaller)
    training += size * widths * _example_bytes(workload)
    setup = SETUP_BYTES * workload.masked_numel + SETUP_LARGEST_BYTES * _largest(
        workload
    )
    stored = workload.input_bytes * workload.examples
    runtime = RUNTIME_MIB if runtime_mib is None else runtime_mib
    return runtime + (max(training, setup) + stored + 2 * payload_bytes) / MIB


def _state_bytes(workload: Workload, density: float, engine: Engine) -> float:
    kept, dense = workload.kept(density), DENSE_BYTES * workload.dense_numel
    if engine == "sparse":
        return dense + SPARSE_KEPT_BYTES * kept
    copies = MASKED_COPIES * workload.masked_numel + LARGEST_COPIES * _largest(workload)
    return dense + MASKED_KEPT_BYTES * kept + 4 * copies


def _beside_bytes(workload: Workload, one: NetworkPass, engine: Engine) -> float:
    """Weights, gradients and index of a smaller network, beside the own one's."""
    kept = workload.kept(one.density)
    if engine == "sparse":
        return BESIDE_KEPT_BYTES * kept + BESIDE_DENSE_BYTES * workload.dense_numel
    shares = zip(workload.layers, workload.kept_units(one.width), strict=True)
    numel = sum(units * layer.numel for layer, units in shares if layer.masked)
    dense = BESIDE_DENSE_BYTES * workload.dense_numel + MASKED_KEPT_BYTES * kept
    return dense + 4 * MASKED_COPIES * numel


def _example_bytes(workload: Workload) -> float:
    if workload.saved_bytes:
        return SAVED_COPIES * workload.saved_bytes
    return ACTIVATION_COPIES * 4 * workload.activations


def _largest(workload: Workload) -> int:
    return max(layer.numel for layer in workload.masked_layers)
