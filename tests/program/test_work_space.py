"""The kernels' own work space, counted by the C library, beside what a plan states."""

from __future__ import annotations

import ctypes
import threading

import pytest
import torch
from beside_torch import Case, loaded, mask_of
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from edge_sdk.kernels.library import kernels
from edge_sdk.program.ceiling.choice import work_bytes

_SAMPLES = 8
_SLACK = 64 << 10  # buffers of sums and indices, some kB each


class _Blocks(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _allocated() -> int:
    """Bytes that the C library has handed out, mapped ones included."""
    call = ctypes.CDLL(None).mallinfo2
    call.restype = _Blocks
    found = call()
    return int(found.uordblks + found.hblkhd)


class _Attends(nn.Module):
    def __init__(self, drop: float) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(4, 96), drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(x).unsqueeze(1).chunk(3, -1)
        p = self.drop if self.training else 0.0
        return scaled_dot_product_attention(q, k, v, dropout_p=p).mean((1, 2))


def _step(threads: int, drop: float) -> tuple[int, int]:
    """Work space that one thread held after a step, and what the plan has of it."""
    torch.manual_seed(0)
    case = Case(
        _Attends(drop), torch.randn(_SAMPLES, 300, 4), torch.randint(0, 32, (_SAMPLES,))
    )
    model = loaded(case, mask_of(case.model, 0.5))
    model.threads = threads
    library = kernels()
    model.backward(case.inputs.numpy(), case.targets.numpy(), draw=1)
    before = _allocated()
    library.library.fe_release_scratch()
    made = model.step_plan(_SAMPLES).plan
    lanes = library.vector_bytes // 4
    return before - _allocated(), work_bytes(made, vector_lanes=lanes, threads=threads)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33"
)
@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_attention_takes_no_more_than_the_plan_states(drop: float) -> None:
    found: list[tuple[int, int]] = []
    one = threading.Thread(target=lambda: found.append(_step(1, drop)))
    one.start()
    one.join()
    ((took, stated),) = found
    assert took > 4 * 300 * 4 * 32  # a head's copies are there at all
    assert took <= stated + _SLACK


def test_each_thread_has_copies_of_a_head() -> None:
    torch.manual_seed(0)
    case = Case(_Attends(0), torch.randn(8, 300, 4), torch.randint(0, 32, (8,)))
    model = loaded(case, mask_of(case.model, 0.5))
    first, more = [], []
    for threads in (1, 4):
        model.threads = threads
        plan = model.step_plan(8)
        first.append(work_bytes(plan.plan, threads=threads))
        more.append(plan.other_bytes)
    assert first[1] > first[0]
    assert more[1] > more[0]
