"""Tracing a model while others run in the same process."""

from __future__ import annotations

import threading
from functools import partial

import torch
from patience import patience
from torch import nn

from edge_sdk.tasks.graph.tracing import trace_layers


class Slow(nn.Module):
    """Lets another thread run a model, and trace one, while this one is traced."""

    def __init__(self, between: threading.Event, done: threading.Event) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self._between, self._done = between, done

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._between.set()
        assert self._done.wait(patience(30))
        return self.layer(x)


def test_a_model_runs_in_one_thread_while_another_thread_traces() -> None:
    between, done = threading.Event(), threading.Event()
    other = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = other(torch.ones(1, 2))
    found: list[torch.Tensor | NameError] = []

    def run() -> None:
        assert between.wait(patience(30))
        try:
            found.append(other(torch.ones(1, 2)))
        except NameError as error:  # what fx raises
            found.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    graph = trace_layers(Slow(between, done), training=False)
    thread.join()
    (seen,) = found
    assert isinstance(seen, torch.Tensor), seen
    assert torch.equal(seen, expected)
    assert [node.op for node in graph.nodes].count("call_module") == 1


def test_threads_that_trace_at_once_leave_torch_as_it_was() -> None:
    before = nn.Module.__call__
    models = [nn.Sequential(nn.Linear(2, 4), nn.ReLU()) for _ in range(8)]
    trace = partial(trace_layers, training=True)
    threads = [threading.Thread(target=trace, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.__call__ is before
