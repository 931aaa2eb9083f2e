"""Devices test the models that they deploy, on examples that they never train on."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from in_threads import run_around
from msgspec import UNSET
from torch import nn

import coordinator
from coordinator.delivery.prepare import _check_not_worse
from coordinator.ledger import open_ledger
from coordinator.ledger.device_rows import TOGETHER
from coordinator.server.evaluation import trained_model
from coordinator.server.global_model import GlobalModel
from coordinator.server.loop import Server
from coordinator.settings import CodecSettings, RunSettings, TrainingSettings
from coordinator.settings.run import BestSettings
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity, effects
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.errors import StateError
from edge_sdk.evaluation import accuracy, macro_f1
from edge_sdk.evaluation.holdout import split
from edge_sdk.evaluation.metric import Metric
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.scoring import score
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics

DEVICES = ("pi-1", "pi-2", "pi-3")
ROUNDS, SEED = 3, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return prepare_folders(
        "digits", folder / "cache", folder / "data", DEVICES, alpha=1.0, seed=1
    )


def settings(**changes: object) -> RunSettings:
    plain = RunSettings(
        federation="tests",
        task="digits",
        evaluation=None,
        densities=[0.2],
        rounds=ROUNDS,
        algorithm="erk",
        wait_for=3,
        seed=SEED,
        holdout=0.25,
        training=TrainingSettings(max_steps=6),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )
    return msgspec.structs.replace(plain, **changes)


def held(examples: Examples) -> Examples:
    found = split(examples.inputs, examples.targets, share=0.25, seed=SEED)
    return examples.take(found.held)


def run(
    folder: Path,
    data: dict[str, Path],
    task: Task,
    ours: RunSettings,
    own: Callable[[str, Examples], Examples] = lambda _, examples: examples,
) -> list[bytes]:
    """Runs it to its end; returns every packet that went by."""
    broker, packets = MemoryBroker(), []
    spy = broker.connect(lambda m: packets.append((m.topic, m.payload)), lambda _: None)
    spy.subscribe(topics.all_uploads(ours.federation, data=False))
    agents = []
    for name in DEVICES:
        examples = own(name, load_partition(data[name]))
        profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        runner = TaskRunner(task, examples, "masked")
        me = Identity(name, ours.federation, "digits", len(examples), profile)
        agents.append(Agent(me, broker.connect, Journal(folder / name), runner))
    ledger = open_ledger(folder / "run")
    with closing(ledger):
        server = Server(ours, task, None, ledger, broker.connect)
        assert run_around(server, agents) == []
    return packets


def test_each_round_is_tested_on_every_device_and_adds_up(
    tmp_path: Path, data: dict[str, Path]
) -> None:
    task = load_task("digits")
    task = replace(task, metrics=[macro_f1(), accuracy()])
    run(tmp_path, data, task, settings())
    ledger = open_ledger(tmp_path / "run")
    with closing(ledger):
        rows = ledger.evaluations()
        assert {(r.round, r.device) for r in rows} == {
            (no, name) for no in range(1, ROUNDS + 1) for name in (*DEVICES, TOGETHER)
        }
        assert ledger.get("metric")["name"] == "macro_f1"
        last = trained_model(task, "digits", ledger, SEED, 0.2)
        mine = {r.device: r for r in rows if r.round == ROUNDS}
        parts = [held(load_partition(data[name])) for name in DEVICES]
        for name, part in zip(DEVICES, parts, strict=True):
            assert mine[name].examples == len(part)
            assert mine[name].metrics == pytest.approx(
                score(last, task, part, (macro_f1(), accuracy()))
                | {"loss": mine[name].metrics["loss"]}
            )
        both = Examples(
            np.concatenate([p.inputs for p in parts]),
            np.concatenate([p.targets for p in parts]),
        )
        whole = score(last, task, both, (macro_f1(), accuracy()))
        assert {n: mine[TOGETHER].metrics[n] for n in whole} == pytest.approx(whole)
        for row in ledger.frozen(1):  # what is held out does not train
            examples = load_partition(data[row.device])
            most = min(6 * task.batch_size, len(examples) - len(held(examples)))
            assert row.examples == most


def test_tests_survive_a_device_that_knows_none_one_without_and_a_broken_metric(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hello_of = effects.hello_of

    def as_in_0_1_0(me: Identity, *given: object) -> object:
        hello = hello_of(me, *given)
        old = me.name == "pi-1"
        return msgspec.structs.replace(hello, evaluates=UNSET) if old else hello

    monkeypatch.setattr(effects, "hello_of", as_in_0_1_0)

    def own(name: str, examples: Examples) -> Examples:
        return examples.take(slice(0, 2)) if name == "pi-3" else examples

    broken = Metric("broken", lambda *_: [math.nan], lambda sums: sums[0])
    task = load_task("digits")
    task = replace(task, metrics=[accuracy(), broken])
    run(tmp_path, data, task, settings(rounds=2), own)
    ledger = open_ledger(tmp_path / "run")
    with closing(ledger):
        rows = {r.device: r for r in ledger.evaluations(1)}
        assert ledger.rounds_done() == 2
    assert "pi-1" not in rows
    assert "too few" in rows["pi-3"].why
    assert rows["pi-3"].examples == 0
    assert "broken: its sums hold a NaN" in rows["pi-2"].why
    assert 0 <= rows["pi-2"].metrics["accuracy"] <= 1
    assert rows[TOGETHER].metrics["accuracy"] == rows["pi-2"].metrics["accuracy"]
    assert "broken" not in rows[TOGETHER].metrics


def points(count: int, seed: int) -> Examples:
    """Three classes around centres that all devices share."""
    centres = 2 * np.random.default_rng(0).normal(size=(3, 16))
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    found = centres[classes] + rng.normal(size=(count, 16))
    return Examples(found.astype(np.float32), classes)


POINTS = Task(
    name="points",
    model=lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)),
    loss=nn.CrossEntropyLoss(),
    input_shape=(16,),
    metrics=[accuracy()],
)


def test_a_simulation_tests_on_devices_as_they_do(tmp_path: Path) -> None:
    done = coordinator.simulate(
        POINTS,
        devices=[points(40, seed) for seed in range(3)],
        evaluation=points(60, 9),
        densities=[0.5],
        rounds=2,
        algorithm="erk",
        holdout=0.25,
        workers=0,
        folder=tmp_path / "run",
    )
    last = done.records[-1]
    tests = last.on_devices["0.5"]
    assert tests.devices == 3
    assert tests.examples == pytest.approx(30, abs=3)
    assert last.metric is not None
    assert last.metric.name == "accuracy"
    assert tests.worst_tenth is not None
    assert tests.worst_tenth <= tests.median <= 1


def test_a_planted_bad_round_is_marked_not_the_best_and_not_delivered(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grow = GlobalModel.grow

    def spoiled(own: GlobalModel, no: int, rows: object) -> str:
        name = grow(own, no, rows)  # type: ignore[arg-type]
        if no == ROUNDS:
            model = own.model
            assert model is not None
            away = {n: -w for n, w in model.masked.items()}
            own.model = replace(model, masked=away)
            own._store.save(name, own.model, no)
        return name

    monkeypatch.setattr(GlobalModel, "grow", spoiled)
    ours = settings(
        best=BestSettings(deploy="best"),
        training=TrainingSettings(epochs=4, rate=0.5, rate_end=0.5),
    )
    run(tmp_path, data, POINTS, ours, lambda name, _: points(80, int(name[-1])))
    folder = tmp_path / "run"
    ledger = open_ledger(folder)
    with closing(ledger):
        assert "accuracy is 0." in ledger.worse(ROUNDS)
        assert not ledger.worse(ROUNDS - 1)
        best = ledger.get("best")["0.2"]["round"]
    assert best < ROUNDS
    models = {p.stem: load_checkpoint(p) for p in (folder / "models").glob("*.safet*")}
    rounds = {name: one.round_no for name, one in models.items()}
    assert rounds == {"density-0.2": best, "best-0.2": best, "last-0.2": ROUNDS}
    with pytest.raises(StateError, match=r"accuracy is 0.* worse"):
        _check_not_worse(folder, ROUNDS, Path("bundle"))
    _check_not_worse(folder, best, Path("bundle"))


def test_a_run_whose_metric_never_has_a_value_says_that_the_last_model_is_deployed(
    tmp_path: Path, data: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    broken = Metric("broken", lambda *_: [math.nan], lambda sums: sums[0])
    ours = settings(rounds=1, best=BestSettings(deploy="best"))
    task = replace(load_task("digits"), metrics=[broken])
    run(tmp_path, data, task, ours)
    (said,) = [r for r in caplog.messages if "has no best model" in r]
    assert "density 0.2" in said
    assert "no round's broken has a value: the last model is deployed" in said
    assert (
        load_checkpoint(tmp_path / "run/models/density-0.2.safetensors").round_no == 1
    )
