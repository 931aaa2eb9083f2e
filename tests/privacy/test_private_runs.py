"""Private runs: what is refused before they begin, and what they do in simulation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import coordinator
from coordinator.algorithms.privacy import ledger_secret
from coordinator.ledger.schema import open_to_write
from coordinator.operations.extend import extend_run
from coordinator.settings import load_run
from edge_sdk.errors import SettingsError
from edge_sdk.tasks.task import Examples, Task

GOOD = """
federation = "demo"
task = "digits"
evaluation = "eval"
densities = [0.1]
rounds = 40
cohort = 10
algorithm = "equal-counts"
[privacy]
noise_multiplier = 4.05
epsilon = 8.0
"""


def load(folder: Path, text: str) -> Any:
    path = folder / "run.toml"
    path.write_text(text)
    return load_run(path)


def test_settings_within_their_budget_are_taken(tmp_path: Path) -> None:
    run = load(tmp_path, GOOD)
    assert run.privacy.noise_multiplier == 4.05
    assert run.bounds.clip == run.bounds.weight == run.bounds.influence == 0
    assert load(tmp_path, GOOD.split("[privacy]", maxsplit=1)[0]).bounds.clip > 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rounds = 40", "rounds = 80", ["80 rounds", "Take 40 rounds", "noise_mult"]),
        ("4.05", "1.0", ["epsilon 48.8", "noise_multiplier = 4.04"]),
        ("noise_multiplier = 4.05", "", ["needs noise", "noise_multiplier to 4.04"]),
        ("equal-counts", "flash", ["warm-up of flash", "without noise"]),
        ("equal-counts", "salientgrads", ["warm-up of salientgrads"]),
        ("equal-counts", "nst", ["nst"]),
        ("equal-counts", "fedavgm", ["fedavgm"]),
        ("cohort = 10", "", ["key cohort"]),
        ('"equal-counts"', '"equal-counts"\naggregate = "trimmed-mean"', ["trimmed"]),
        ("epsilon = 8.0", "delta = 1.0", ["privacy.delta"]),
        ("epsilon = 8.0", "clip = 0.0", ["privacy.clip"]),
        ("epsilon = 8.0", "epsilon = -1.0", ["privacy.epsilon"]),
        ("noise_multiplier = 4.05", "noise_multiplier = inf", ["privacy.noise"]),
    ],
)
def test_what_would_not_be_private_is_refused_by_name(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    text = f"{caught.value} {caught.value.help}"
    assert all(part in text for part in said), text


def _examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 40)
    inputs = targets[:, None] + rng.normal(size=(40, 4))
    return Examples(inputs.astype(np.float32), targets)


def task_of(norm: bool) -> Task:
    def network() -> nn.Module:
        middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
        return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Linear(8, 2))

    return Task(
        name="toy", model=network, loss=nn.functional.cross_entropy,
        train_data=_examples, eval_data=_examples, input_shape=(4,),
    )  # fmt: skip


def private(norm: bool = False, **more: Any) -> coordinator.Run:
    noise = more.pop("noise", 0.5)
    return coordinator.simulate(
        task_of(norm), devices=[_examples()] * 4, evaluation=_examples(), cohort=4,
        algorithm="equal-counts", rounds=3, densities=[0.5],
        training={"rate": 0.1}, **more,
        privacy={"noise_multiplier": noise, "clip": 0.5},
    )  # fmt: skip


def weights(run: coordinator.Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model(0.5).parameters()])


def test_a_private_simulation_says_what_it_promises_and_is_repeated_bit_for_bit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        first = private()
    assert "3 rounds come to epsilon" in caplog.text
    assert torch.equal(weights(first), weights(private()))
    assert not torch.equal(weights(first), weights(private(seed=2)))
    quiet = private(noise=1e-6)
    assert not torch.allclose(weights(first), weights(quiet), atol=1e-3)


def test_statistics_of_a_norm_are_refused() -> None:
    with pytest.raises(SettingsError, match="batch norm"):
        private(norm=True)


def test_a_run_keeps_the_key_of_its_noise() -> None:
    class Memory(dict[str, Any]):
        put = dict.__setitem__

    memory: Any = Memory()
    first = ledger_secret(memory)
    assert len(first) == 32
    assert ledger_secret(memory) == first
    assert ledger_secret(Memory()) != first  # type: ignore[arg-type]


def test_an_extension_that_would_tell_more_is_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    load(tmp_path, GOOD)
    open_to_write(tmp_path / "ledger.sqlite").close()
    with pytest.raises(SettingsError, match="80 rounds come to epsilon"):
        extend_run(tmp_path, 40)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == "") == []
    assert load_run(tmp_path / "run.toml").rounds == 40


def test_rounds_without_a_last_one_are_refused(tmp_path: Path) -> None:
    endless = GOOD.replace("rounds = 40", "rounds = 0")
    with pytest.raises(SettingsError, match="no bound"):
        load(tmp_path, endless + "[training]\nrate_end = 0.1\n")
