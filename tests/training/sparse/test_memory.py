"""The block pool: what it hands out, takes back and frees."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812

from edge_sdk.device.limits.enforcement import MemoryFallbackRunner
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.training.sparse import memory, sparse_model
from edge_sdk.training.torch_engine.models import TorchModels


def test_a_block_comes_back_when_its_tensor_dies_and_not_before() -> None:
    memory.release()
    first = memory.empty((100, 1000), torch.float32)
    address = first.data_ptr()
    keeper = first[3]
    del first
    gc.collect()
    other = memory.empty((100, 1000), torch.float32)
    assert other.data_ptr() != address
    del keeper
    gc.collect()
    assert memory.empty((100, 1000), torch.float32).data_ptr() == address


def test_tensors_are_aligned_for_the_kernels() -> None:
    tensors = [memory.empty((n, 1001), torch.float32) for n in range(1, 40)]
    assert all(t.data_ptr() % 64 == 0 for t in tensors)


def test_freed_neighbours_join_and_serve_a_larger_request() -> None:
    memory.release()
    parts = [memory.empty((50_000,), torch.float32) for _ in range(4)]
    top, lowest = memory._arena.top, min(p.data_ptr() for p in parts)
    for order in (2, 0, 1, 0):
        del parts[order if order < len(parts) else 0]
    gc.collect()
    whole = memory.empty((200_000,), torch.float32)
    assert whole.data_ptr() == lowest
    assert memory._arena.top == top


def test_training_steps_ask_for_no_more_memory_after_the_first(zoo) -> None:
    model = zoo.model("resnet", torch.float32)
    own = sparse_model(model, zoo.mask(model))
    x, y = zoo.batch("resnet", 32, torch.float32)

    def step() -> None:
        for parameter in own.parameters():
            parameter.grad = None
        F.cross_entropy(own(x), y).backward()

    step()
    held = memory._arena.top
    for _ in range(3):
        step()
    assert memory._arena.top == held


def test_releasing_frees_what_nobody_uses_and_harms_nothing_else() -> None:
    tensor = memory.empty((64, 1024), torch.float32).fill_(2.0)
    other = memory.empty((64, 1024), torch.float32)
    del other
    memory.release()
    assert float(tensor.sum()) == 2.0 * tensor.numel()
    memory.empty((64, 1024), torch.float32).fill_(1.0)
    assert float(tensor.min()) == 2.0


def test_a_device_gives_memory_back_after_each_task() -> None:
    """Pages that were given back are zeros when they are touched again."""

    class Trains:
        allowance = Allowance(0)

        def run(self, *_: object) -> str:
            memory.empty((64, 1024), torch.float32).fill_(1.0)
            return "packed"

        def release(self) -> None:
            TorchModels.release(cast("TorchModels", self))

    order = SimpleNamespace(training=SimpleNamespace(batch_size=8))
    assert MemoryFallbackRunner(Trains()).run(order, b"", lambda: False) == "packed"
    assert not memory.empty((64, 1024), torch.float32).any()
