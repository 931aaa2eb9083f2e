"""The choice of engine: a race whose clock the tests hold."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.training.sparse import choose_engine
from edge_sdk.training.sparse.graph import chains, trace
from edge_sdk.training.sparse.modules import MaskedConv2d, SparseConv2d, SparseLinear

STEPS = 4  # one to warm up, three that count


class Clock:
    """Each contestant's steps take the seconds it was given."""

    def __init__(self, *seconds: float) -> None:
        self.ticks = self._ticks(seconds)

    def __call__(self) -> float:
        return next(self.ticks)

    @staticmethod
    def _ticks(seconds: tuple[float, ...]) -> Iterator[float]:
        now = 0.0
        for each in seconds:
            for _ in range(STEPS):
                yield now
                now += each
                yield now


def choose(zoo, name: str, clock: Clock, *, density: float = 0.1, engine: str = "auto"):
    model = zoo.model(name, torch.float32)
    mask = zoo.mask(model, density)
    batch = zoo.batch(name, 4, torch.float32)
    return choose_engine(
        model,
        mask,
        engine=engine,
        example_batch=batch,
        loss=F.cross_entropy,
        clock=clock,
    )


def test_the_faster_engine_wins(zoo) -> None:
    assert choose(zoo, "resnet", Clock(2.0, 1.0)).engine == "sparse"
    assert choose(zoo, "resnet", Clock(1.0, 2.0)).engine == "masked"


def test_the_reason_gives_both_times(zoo) -> None:
    reason = choose(zoo, "resnet", Clock(2.0, 1.0)).reason
    assert "1000.0 ms" in reason
    assert "2000.0 ms" in reason
    assert "batch 4" in reason


def test_a_dense_chain_is_tried_on_dense_kernels_and_kept_if_faster(zoo) -> None:
    """vgg at density .6: each chain races on its own; here the first one wins."""
    chosen = choose(zoo, "vgg", Clock(9.0, 3.0, 2.0, 2.5, 2.5, 2.5), density=0.6)
    assert chosen.engine == "sparse"
    assert "dense kernels for conv2" in chosen.reason
    module = chosen.module
    assert isinstance(module.conv2, MaskedConv2d)
    assert isinstance(module.conv3, SparseConv2d)
    assert isinstance(module.fc1, SparseLinear)


def test_a_mixed_model_computes_what_the_masked_one_does(zoo) -> None:
    clock = Clock(9.0, 3.0, 2.0, 1.0, 2.5, 2.5)
    mixed = choose(zoo, "vgg", clock, density=0.6).train(False)
    masked = choose(zoo, "vgg", Clock(), density=0.6, engine="masked").train(False)
    x, _ = zoo.batch("vgg", 5, torch.float32)
    assert torch.allclose(mixed(x), masked(x), atol=1e-5)
    values, reference = mixed.values(), masked.values()
    assert all((values[n] == reference[n]).all() for n in reference)


def test_chains_end_at_poolings_and_flattening(zoo) -> None:
    graph = trace(zoo.model("vgg", torch.float32))
    assert chains(graph) == [
        ("conv1",), ("conv2",), ("conv3", "conv4"), ("fc1", "fc2")
    ]  # fmt: skip


@pytest.mark.parametrize("engine", ["sparse", "masked"])
def test_a_named_engine_does_not_race(zoo, engine: str) -> None:
    assert choose(zoo, "mixed", Clock(), engine=engine).engine == engine


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3)) if x.sum() > -1e9 else x


def test_what_cannot_be_converted_runs_masked_with_one_line_saying_why(
    zoo, caplog: pytest.LogCaptureFixture
) -> None:
    model = Branching()
    mask = zoo.mask(model, edges_dense=False)
    batch = torch.zeros(2, 3, 5, 5), torch.zeros(2, dtype=torch.int64)
    with caplog.at_level(logging.WARNING):
        chosen = choose_engine(
            model, mask, engine="auto", example_batch=batch, loss=F.cross_entropy
        )
    assert chosen.engine == "masked"
    assert "Branching.forward cannot be traced" in chosen.reason
    assert len(caplog.records) == 1
    with pytest.raises(EngineError, match="Branching"):
        choose_engine(
            model, mask, engine="sparse", example_batch=batch, loss=F.cross_entropy
        )


def test_the_race_leaves_model_threads_and_random_numbers_alone(zoo) -> None:
    model = zoo.model("vgg", torch.float32)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    choose_engine(
        model, zoo.mask(model), engine="auto", threads=1,
        example_batch=zoo.batch("vgg", 4, torch.float32), loss=F.cross_entropy,
    )  # fmt: skip
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_without_kernels_auto_runs_masked_and_says_so(
    zoo, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    from edge_sdk.kernels import library

    monkeypatch.setenv("FLASH_EDGE_BUILD", "0")
    monkeypatch.setattr(library, "_folders", lambda: (tmp_path,))
    library.kernels.cache_clear()
    try:
        assert library.available() is None
        assert "not built" in library.unavailable_reason()
        chosen = choose(zoo, "mixed", Clock())
        assert chosen.engine == "masked"
        assert "not built" in chosen.reason
    finally:
        library.kernels.cache_clear()
