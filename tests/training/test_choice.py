"""The choice of engine on a device with torch: a race whose clock the tests hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import mask_of
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels import library
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.training.torch_engine import models as models_module
from edge_sdk.training.torch_engine.choice import Race, choose_engine
from edge_sdk.training.torch_engine.models import TorchModels
from edge_sdk.training.torch_engine.program import captured

STEPS = 4  # one to warm up, three that count
BATCH = torch.randn(4, 3, 8, 8), torch.randint(0, 5, (4,))


class Clock:
    """Each contestant's steps take the seconds it was given: masked, then program."""

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


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )


@cache
def file() -> bytes:
    return captured(network(), F.cross_entropy, BATCH)


def never() -> bytes:
    raise AssertionError("nothing is to be captured")


def choose(
    clock: Clock,
    *,
    engine: str = "auto",
    program: bytes | None = None,
    capture: Callable[[], bytes] = never,
    **race: float,
) -> TrainingModel:
    model = network()
    return choose_engine(
        *(model, mask_of(model, 0.3), F.cross_entropy),
        *(Race(BATCH, clock=clock, **race), capture),  # type: ignore[arg-type]
        engine=engine,  # type: ignore[arg-type]
        program=file() if program is None else program,
    )


def test_the_faster_engine_wins() -> None:
    assert choose(Clock(2.0, 1.0)).engine == "program"
    assert choose(Clock(1.0, 2.0)).engine == "masked"


def test_the_reason_gives_both_times() -> None:
    reason = choose(Clock(2.0, 1.0)).reason
    assert "1000.00 ms" in reason
    assert "2000.00 ms" in reason
    assert "batch 4" in reason


@pytest.mark.parametrize("engine", ["program", "masked"])
def test_a_named_engine_does_not_race(engine: str) -> None:
    assert choose(Clock(), engine=engine).engine == engine


def test_without_a_program_long_epochs_are_worth_capturing_one() -> None:
    short = choose(Clock(1.0), program=b"", steps=9, worth_s=10)
    assert short.engine == "masked"
    assert "no program was sent" in short.reason
    long = choose(Clock(1.0, 0.1), program=b"", capture=file, steps=11, worth_s=10)
    assert long.engine == "program"
    assert "captured here" in long.reason


def test_a_race_leaves_norm_statistics_model_and_random_numbers_alone() -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    for clock in (Clock(2.0, 1.0), Clock(1.0, 2.0)):
        torch.manual_seed(1)
        found = choose_engine(
            *(model, mask_of(model, 0.3), F.cross_entropy),
            *(Race(BATCH, clock=clock), never),
            program=file(),
        )
        assert torch.equal(torch.rand(3), expected)
        for name, entry in found.dense().items():
            assert (entry == before[name].numpy()).all(), name
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("engine", ["auto", "program"])
def test_a_model_without_a_program_runs_masked_with_one_line_saying_why(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> bytes:
        raise EngineError("layer 3: cummax has no kernel")

    with caplog.at_level(logging.WARNING):
        chosen = choose(Clock(9.0), engine=engine, program=b"", capture=none, worth_s=1)
    assert chosen.engine == "masked"
    (line,) = [r.getMessage() for r in caplog.records]
    assert "cummax" in line


@pytest.mark.parametrize("engine", ["auto", "program"])
def test_without_kernels_it_runs_masked_and_says_so(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("FLASH_EDGE_BUILD", "0")
    monkeypatch.setattr(library, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    library.kernels.cache_clear()
    try:
        assert library.available() is None
        chosen = choose(Clock(), engine=engine, program=b"any")
        assert chosen.engine == "masked"
        assert "not built" in chosen.reason
    finally:
        library.kernels.cache_clear()


def test_a_device_captures_once_for_all_its_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, made = load_task("digits"), []

    def counted(*given: object) -> bytes:
        made.append(given)
        return captured(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(models_module, "captured", counted)
    source = TorchModels(task, "program", "fp32")
    examples = Examples(
        torch.randint(0, 17, (9, 1, 8, 8), dtype=torch.uint8).numpy(),
        torch.randint(0, 10, (9,)).numpy(),
    )
    for density in (0.3, 0.6):
        mask = mask_of(task.model(), density)
        assert source.on(mask, examples, Allowance(), 4).engine == "program"
    assert len(made) == 1


def test_where_only_a_program_fits_into_memory_it_is_not_raced() -> None:
    def fits(_: float, engine: str, batch: int) -> int | None:
        return batch // 2 if engine == "sparse" else None

    engine, size = Allowance(fits).contest("auto", 0.1, 32)
    assert (engine, size) == ("program", 16)
