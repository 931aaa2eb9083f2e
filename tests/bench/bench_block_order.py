"""Cost of sums that do not depend on how a batch is split: linear layers by block.

Run from the root of the project:
    FLASH_EDGE_ISA=v3 python tests/bench/bench_block_order.py

A batch of two blocks of 16 samples goes through a sparse linear layer at once, and one
block after the other, as micro-batches do: that order of sums would be the same for any
split. Processor time of one thread, interleaved, medians. Then the memory that a
batch in parts would take to keep the whole batch's order: a register of sums for each
kept weight of a linear layer, or both sides of these layers until the batch is whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from edge_sdk.kernels.library import kernels
from edge_sdk.kernels.structure import Structure
from edge_sdk.program.capture import capture
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Mask
from edge_sdk.zoo import FemnistCnn, McMahanCnn

LANES, BLOCKS, TIMES = 16, 2, 15
LAYERS = ((2048, 3136, 0.2), (2048, 3136, 0.05), (512, 784, 0.1), (128, 640, 0.1))


def reals(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random float32 on a border of 64 bytes."""
    room = np.zeros(count + 16, np.float32)
    found = room[(-room.ctypes.data // 4) % 16 :][:count]
    found[:] = rng.standard_normal(count)
    return found


def median_ms(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Milliseconds of each call, taken in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(TIMES):
        for times, call in zip(found, calls, strict=True):
            began = time.process_time_ns()
            for _ in range(repeats):
                call()
            times.append((time.process_time_ns() - began) / repeats / 1e6)
    return [statistics.median(times) for times in found]


def memory() -> None:
    """MiB of a step's arena, whole and in halves, and what the same sums would take."""
    rng, batch = np.random.default_rng(0), BLOCKS * LANES
    for make in (FemnistCnn, McMahanCnn):
        own = make()
        x, y = torch.randn(3, 1, 28, 28), torch.zeros(3, dtype=torch.long)
        program = capture(own, F.cross_entropy, x, y)
        names = [n for n, p in own.named_parameters() if p.dim() > 1][1:-1]
        shapes = {name: tuple(own.get_parameter(name).shape) for name in names}
        for density in (0.2, 0.05):
            mask = {n: rng.random(shape) < density for n, shape in shapes.items()}
            model = ProgramModel(program, Mask(mask))
            graph, kept, sides = model.program.training, 0, 0
            for one in graph.operations:
                if one.name == "linear":
                    name = model.program.parameters[one.parameters[0]].name
                    kept += model.memory.state[name].size
                    ends = (one.inputs[0], one.outputs[0])
                    sides += sum(graph.tensors[end].size for end in ends)
            figures = {
                "arena": model.arena_bytes(batch),
                "in parts of 16": model.arena_bytes(batch, micro_batch=LANES),
                "registers of sums": kept * model.kernels.vector_bytes,
                "both sides": 4 * batch * sides,
            }
            told = [f"{what} {size / 2**20:.2f} MiB" for what, size in figures.items()]
            print(f"{make.__name__}, d = {density}: {', '.join(told)}")


def main() -> None:
    memory()
    rng, own = np.random.default_rng(0), kernels()
    for rows, columns, density in LAYERS:
        layer = Structure.of(rng.random((rows, columns)) < density)
        ins, outs = columns * LANES, rows * LANES
        sizes = (ins * BLOCKS, outs * BLOCKS, outs * BLOCKS, ins * BLOCKS)
        x, y, dy, dx = (reals(n, rng) for n in sizes)
        dw, w = (reals(layer.nnz + 4, rng) for _ in range(2))
        db, bias = (reals(rows, rng) for _ in range(2))

        def forward(blocks: int, first: int = 0) -> None:
            given = x[first * ins :], w, bias, y[first * outs :]  # noqa: B023
            own.call("fe_linear_forward", *head(blocks), *addresses(given))

        def backward(blocks: int, first: int = 0) -> None:
            given = (
                *(x[first * ins :], w, dy[first * outs :]),  # noqa: B023
                *(dx[first * ins :], dw, db),  # noqa: B023
            )
            own.call("fe_linear_backward", *head(blocks), *addresses(given))

        def head(blocks: int) -> tuple[int, ...]:
            return layer.handle, LANES, blocks, 1  # noqa: B023

        def addresses(arrays: tuple[np.ndarray, ...]) -> list[int]:
            return [array.ctypes.data for array in arrays]

        calls: list[Callable[[], object]] = []
        for kernel in (forward, backward):
            calls += [
                lambda kernel=kernel: kernel(BLOCKS),
                lambda kernel=kernel: [kernel(1, n) for n in range(BLOCKS)],
            ]
        found = median_ms(calls, 1 if rows > 1000 else 10)
        print(
            f"{own.isa} {rows} x {columns}, d = {density}: "
            f"forward {found[0]:.3f} ms, by block {found[1] / found[0]:.2f} times; "
            f"backward {found[2]:.3f} ms, by block {found[3] / found[2]:.2f} times"
        )


if __name__ == "__main__":
    main()
