"""A round's model is checked before it counts, and whoever spoils it is named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_threads import run_around
from lying import Liar

from coordinator.algorithms.findings import mean_findings
from coordinator.algorithms.mean import Model
from coordinator.ledger import open_ledger
from coordinator.rounds.model_check import collapsed, impossible_model, spoilers
from coordinator.server.loop import Server
from coordinator.settings import (
    CodecSettings,
    GateSettings,
    RunSettings,
    TrainingSettings,
)
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire.evidence import Evidence
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import Values

MASK = Mask({"fc": np.eye(2, dtype=bool)})


@given(count=st.integers(2, 30), data=st.data())
def test_a_minority_that_spoils_the_model_is_named_and_nobody_else(
    count: int, data: st.DataObject
) -> None:
    """Some make it worse by some amount, some make it nothing at all."""
    names = [f"d{place}" for place in range(count)]
    most = max(1, (count - 1) // 2)
    bad = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=most))
    harm = {
        name: data.draw(st.sampled_from([3.0, 8.0, math.nan, math.inf]))
        for name in sorted(bad)
    }

    def loss_of(kept: Collection[str]) -> float:
        return 0.4 + 0.01 * len(kept) + sum(harm.get(name, 0.0) for name in kept)

    found = spoilers(names, loss_of, lambda loss: loss < 1.0)
    assert set(found) == bad


def test_where_no_minority_helps_nobody_is_named() -> None:
    assert spoilers(["a", "b", "c"], lambda _: 9.0, lambda loss: loss < 1) == ()
    assert spoilers(["a"], lambda _: 9.0, lambda loss: loss < 1) == ("a",)


@given(first=st.floats(0.1, 10), before=st.floats(0.01, 20), after=st.floats(0.01, 20))
def test_a_round_is_lost_only_where_there_was_something_to_lose(
    first: float, before: float, after: float
) -> None:
    lost = collapsed(first, before, after)
    assert lost == (before < first / 2 and after > 2 * first)
    assert collapsed(first, before, math.nan)
    assert not collapsed(first, math.nan, after)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("b", [1.0, np.inf], "entry b is not finite"),
        ("b", [1.0, np.nan], "entry b is not finite"),
        ("bn.running_var", [1.0, -0.5], "negative variance"),
        ("bn.running_var", [1.0, 0.0], ""),
        ("bn.running_mean", [1.0, -3e38], ""),
    ],
)
def test_a_model_that_cannot_be_is_seen(
    name: str, values: list[float], why: str
) -> None:
    masked = {"fc": np.ones(2, np.float32)}
    model = Model(MASK, masked, {name: np.array(values, np.float32)})
    found = impossible_model(model)
    assert why in found
    assert bool(found) == bool(why)


@given(
    honest=st.lists(st.integers(90, 110), min_size=2, max_size=9),
    lie=st.integers(0, 10_000),
)
def test_one_warm_up_that_lies_neither_starves_a_layer_nor_feeds_it_all(
    honest: list[int], lie: int
) -> None:
    layers = [LayerShape("fc", (100, 100))]
    reports = [Evidence({"fc": count}) for count in (*honest, lie)]
    found = mean_findings(reports, layers).kept["fc"]
    assert 60 < found < 220
    alone = mean_findings(reports[:-1], layers).kept["fc"]
    assert alone == sum(honest) / len(honest)  # what is honest counts as it is


def _too_large(values: Values, order: TaskOrder) -> Values:
    if order.round_no == 1:
        return values
    masked = {n: np.full_like(a, 3e37) for n, a in values.masked.items()}
    return dataclasses.replace(values, masked=masked)


class Spoiler(Liar):
    """Trains honestly in round 1, then sends what no float32 survives."""

    change = staticmethod(_too_large)


@pytest.mark.parametrize("honest", [3, 1], ids=["a minority", "half"])
def test_whose_update_spoils_a_round_is_left_out_by_name_and_the_round_goes_on(
    tmp_path: Path, honest: int
) -> None:
    """Without bounds on norm and influence, so that only this stands against it."""
    names = [*(f"pi-{place}" for place in range(honest)), "spoiler"]
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", names, alpha=1.0, seed=1
    )
    broker, task = MemoryBroker(), load_task("digits")
    board = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
    agents = []
    for name in names:
        examples = load_partition(data[name])
        kind = Spoiler if name == "spoiler" else TaskRunner
        me = Identity(name, "spoilt", "digits", len(examples), board)
        runner = kind(task, examples, "masked")
        agents.append(Agent(me, broker.connect, Journal(tmp_path / name), runner))
    settings = RunSettings(
        federation="spoilt",
        task="digits",
        evaluation=data["evaluation"],
        densities=[0.2],
        rounds=2,
        algorithm="erk",
        wait_for=len(names),
        training=TrainingSettings(max_steps=3),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
        gate=GateSettings(clip=0.0, weight=0.0, influence=0.0),
    )
    ledger = open_ledger(tmp_path / "run")
    scored_on = task.eval_data(settings.evaluation)
    server = Server(settings, task, scored_on, ledger, broker.connect)
    with closing(ledger):
        assert run_around(server, agents) == []
        rounds = ledger.rounds()
        scores = ledger.scores()
    found = summary(tmp_path / "run")
    assert found["rounds_done"] == 2
    (row,) = next(d["refusals"] for d in found["devices"] if d["name"] == "spoiler")
    assert row["verdict"] == "rejected"
    assert "spoils the model of the round" in row["why"]
    assert all(not d["refusals"] for d in found["devices"] if d["name"] != "spoiler")
    last = rounds[-1].no
    assert all(math.isfinite(s["loss"]) for s in scores[last].values())
    assert found["updates"] == {"1": len(names), "2": honest}
