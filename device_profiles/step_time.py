"""Time of a workload's training steps on a processor, from what they ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from device_profiles.schema import DeviceProfile, Engine
from device_profiles.workload import NetworkPass, Workload

__all__ = ["REFERENCE_CALLS", "Terms", "pool_rate", "round_terms", "step_terms"]

# Forward, input gradient and weight gradient, one multiplication and one addition each.
FLOPS_PER_MAC = 6
# A kept weight costs 1.0-1.14 of a dense one in the 128-bit kernels (slope of step
# time against density, FEMNIST CNN and ResNet18, batch 32), so a layer is never worth
# more than its dense pass.
SPARSE_FLOP_PENALTY = 1.1
# Times each activation element crosses the memory bus in a step, where the traffic
# was not counted: written, read by the next operator, read again backward, its
# gradient written and read. The sparse engine fuses bias, pooling and ReLU.
ACTIVATION_TRAFFIC: Mapping[Engine, int] = {"sparse": 6, "masked": 8}
# What the sparse engine moves of the traffic counted of torch's operators: it fuses
# bias, ReLU and pooling into its kernels, which read their input once per kept weight,
# and passes over normalisations once less (eight networks, AVX-512, one thread).
KERNEL_SHARE, NORM_SHARE = 2.0, 1.2
# It trains sixteen examples side by side: a batch of eight costs as much as sixteen.
LANES = 16
# Bytes per trained value: SGD reads value and gradient and writes the value.
OPTIMIZER_BYTES = 20
# The masked engine per masked weight: zeros written, copied with the kept values put
# in, read forward and backward, its gradient written and gathered from.
SCATTER_BYTES = 28
# ... and per kept value: int64 positions twice, values and gradients.
KEPT_BYTES = 20
# The sparse engine per kept weight: its value and column forward; its row, that row's
# cursor, its value and its gradient backward (counted in kernels/src/linear.cpp).
SPARSE_WEIGHT_BYTES = 28
# Operator calls of the step whose overhead `step_overhead_ms` is (MnistNet has 51).
REFERENCE_CALLS = 50
# The masked engine's scatter and gather per masked layer, forward and backward.
SCATTER_CALLS = 9
# The sparse engine's calls of kernels and autograd, per layer (80 us on a server core).
SPARSE_LAYER_CALLS = 12
# The allocator gives a freed block of this size back to the kernel, and touching it
# again takes a page fault for every 4 KiB: the time of so many more bytes of traffic
# for each of its weights (FEMNIST's fc1, 25.7 MB; Vgg11's largest, 9.4 MB, has none).
FAULTING_BYTES = 16 * 1024 * 1024
FAULT_BYTES = 60
# Loss, optimizer and Python of the loop, in operator calls.
LOOP_CALLS = 15
# Max pooling takes a branch per element; a 1 GHz in-order core takes about 10 ns.
POOL_M_S_PER_CORE = 100.0


@dataclass(frozen=True, slots=True)
class Terms:
    """Work in the four currencies that a processor is slow in.

    Attributes:
        gflop: Floating-point operations, 1e9.
        gbyte: Memory traffic of the operators, 1e9 bytes.
        mcompare: Elements that max pooling looks at, 1e6.
        calls: Operator calls.
    """

    gflop: float
    gbyte: float
    mcompare: float
    calls: float

    def seconds(self, profile: DeviceProfile) -> float:
        """Time on a board with all its cores.

        The four add up: small in-order cores hide little of one behind another, and
        an operator at a time leaves nothing to hide behind. On a server core the sum
        was within 17 % for nine networks, each with the rates fitted to the others.
        """
        return (
            self.gflop / profile.train_gflops
            + self.gbyte / profile.memory_gb_s
            + self.mcompare / pool_rate(profile)
            + self.calls * profile.step_overhead_ms / 1000 / REFERENCE_CALLS
        )


def pool_rate(profile: DeviceProfile) -> float:
    """Millions of elements a second that max pooling looks at."""
    return profile.pool_m_s or POOL_M_S_PER_CORE * profile.cores


def step_terms(
    workload: Workload, density: float, engine: Engine, *, batch: int | None = None
) -> Terms:
    """One training step with `batch` examples, or with the workload's own batch."""
    size = workload.batch if batch is None else batch
    return _terms(workload, density, engine, examples=_padded(size, engine), steps=1)


def round_terms(workload: Workload, density: float, engine: Engine) -> Terms:
    """All training steps of a round."""
    full, rest = divmod(workload.examples, workload.batch)
    a_step = _padded(workload.batch, engine)
    epoch = full * a_step + _padded(rest, engine)
    count = min(workload.epochs * epoch, workload.steps * a_step)
    return _terms(workload, density, engine, examples=count, steps=workload.steps)


def _padded(batch: int, engine: Engine) -> int:
    return -(-batch // LANES) * LANES if engine == "sparse" else batch


def _terms(
    workload: Workload, density: float, engine: Engine, *, examples: int, steps: int
) -> Terms:
    """Work of all passes that these steps' batches take."""
    found = [
        (_pass_terms(workload, one, engine, examples, steps), one.times)
        for one in workload.passes_at(density)
    ]
    return Terms(
        gflop=sum(times * terms.gflop for terms, times in found),
        gbyte=sum(times * terms.gbyte for terms, times in found),
        mcompare=sum(times * terms.mcompare for terms, times in found),
        calls=sum(times * terms.calls for terms, times in found),
    )


def _pass_terms(
    workload: Workload, one: NetworkPass, engine: Engine, examples: int, steps: int
) -> Terms:
    """Work of so many examples in one network, and of its part of the steps.

    What a smaller network's values and gradients are copied stands for the optimizer's
    traffic, which is the own network's.
    """
    kept = workload.kept(one.density)
    per_step: float = OPTIMIZER_BYTES * (kept + workload.dense_numel)
    if engine == "masked":
        numel = _dense_numel(workload, one.width)
        per_step += SCATTER_BYTES * sum(numel) + KEPT_BYTES * kept
        per_step += FAULT_BYTES * _faulting(numel)
    else:
        per_step += SPARSE_WEIGHT_BYTES * kept
    flops = FLOPS_PER_MAC * _macs(workload, one, engine) * examples
    traffic = one.width * _traffic(workload, engine) * examples + per_step * steps
    # The sparse engine's own pooling keeps maxima in vector registers: no branches.
    compares = one.width * workload.compares * examples if engine == "masked" else 0
    return Terms(
        flops / 1e9, traffic / 1e9, compares / 1e6, _calls(workload, engine) * steps
    )


def _macs(workload: Workload, one: NetworkPass, engine: Engine) -> float:
    kept = min(1.0, SPARSE_FLOP_PENALTY * one.density)
    return sum(
        layer.macs * (kept if engine == "sparse" and layer.masked else units)
        for layer, units in zip(
            workload.layers, workload.kept_units(one.width), strict=True
        )
    )


def _dense_numel(workload: Workload, width: float) -> list[float]:
    """Weights of each masked layer between the units that a width leaves."""
    return [
        units * layer.numel
        for layer, units in zip(
            workload.layers, workload.kept_units(width), strict=True
        )
        if layer.masked
    ]


def _traffic(workload: Workload, engine: Engine) -> float:
    if not workload.traffic_bytes:
        return ACTIVATION_TRAFFIC[engine] * 4 * workload.activations
    if engine == "masked":
        return workload.traffic_bytes
    return KERNEL_SHARE * workload.kernel_bytes + NORM_SHARE * workload.norm_bytes


def _faulting(numel: list[float]) -> float:
    """Weights of layers so large that their dense copies are mapped anew every step."""
    return sum(count for count in numel if 4 * count >= FAULTING_BYTES)


def _calls(workload: Workload, engine: Engine) -> int:
    if not workload.operators:
        return REFERENCE_CALLS
    if engine == "sparse":
        return SPARSE_LAYER_CALLS * len(workload.layers) + LOOP_CALLS
    return workload.operators + SCATTER_CALLS * len(workload.masked_layers) + LOOP_CALLS
