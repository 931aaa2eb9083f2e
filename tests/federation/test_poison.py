"""A device that sends poison, and a stranger that sends noise: the round goes on."""

from __future__ import annotations

import dataclasses
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from in_threads import run_around
from lying import Liar

from coordinator.ledger import open_ledger, read_ledger
from coordinator.server.loop import Server
from coordinator.settings import CodecSettings, RunSettings, TrainingSettings
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import Values

DEVICES = ("pi-1", "pi-2", "pi-3", "boaster", "poisoner")
CLAIMED = 10**6  # examples


def _poisoned(values: Values, _order: TaskOrder) -> Values:
    first = next(iter(values.masked))
    poison = values.masked[first].copy()
    poison[0] = np.nan
    return dataclasses.replace(values, masked={**values.masked, first: poison})


def _longer(values: Values, _order: TaskOrder) -> Values:
    masked = {name: 1000 * array for name, array in values.masked.items()}
    return dataclasses.replace(values, masked=masked)


class Poisoner(Liar):
    """Puts a NaN in its first value; a stranger adds noise."""

    change = staticmethod(_poisoned)
    noise: Callable[[], None]

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> PackedUpdate:
        self.noise()  # now: the devices it names have said HELLO
        return super().run(order, base, stop, structure)


class Boaster(Liar):
    """Sends a change a thousand times as long, claims a million examples."""

    change = staticmethod(_longer)

    def claimed(self, examples: int) -> int:
        return CLAIMED


KINDS = {"poisoner": Poisoner, "boaster": Boaster}


def test_a_poisoned_update_and_noise_are_refused_by_name_and_the_round_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", DEVICES, alpha=1.0, seed=1
    )
    broker, task = MemoryBroker(), load_task("digits")
    stranger = broker.connect(lambda _: None, lambda _: None)

    def make_noise() -> None:
        for noise in (b"", b"\x80" * 5000, b"\x94\x01", bytes(range(256))):
            stranger.publish("fl/1/poison/d/pi-1/up/0/ctl", noise)

    agents = []
    for name in DEVICES:
        examples = load_partition(data[name])
        profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        runner = KINDS.get(name, TaskRunner)(task, examples, "masked")
        if isinstance(runner, Poisoner):
            runner.noise = make_noise
        agents.append(
            Agent(
                Identity(
                    name,
                    "poison",
                    "digits",
                    CLAIMED if name == "boaster" else len(examples),
                    profile,
                ),
                broker.connect,
                Journal(tmp_path / name),
                runner,
            )
        )
    settings = RunSettings(
        federation="poison",
        task="digits",
        evaluation=data["evaluation"],
        densities=[0.2],
        rounds=1,
        algorithm="erk",
        wait_for=5,
        training=TrainingSettings(max_steps=3),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )
    ledger = open_ledger(tmp_path / "run")
    server = Server(
        settings, task, task.eval_data(settings.evaluation), ledger, broker.connect
    )
    with closing(ledger), caplog.at_level(logging.WARNING):
        assert run_around(server, agents) == []
    found = summary(tmp_path / "run")
    assert found["rounds_done"] == 1
    assert found["updates"] == {"1": 4}
    refused = {d["name"]: d["refused"] for d in found["devices"]}
    assert refused == dict.fromkeys(DEVICES, 0) | {"poisoner": 1}
    assert "rejected the update of poisoner" in caplog.text
    reasons = {d["name"]: d["refusals"] for d in found["devices"]}
    ((poison,), (noise,)) = reasons.pop("poisoner"), reasons.pop("pi-1")
    assert (poison["verdict"], poison["count"], poison["round"]) == ("rejected", 1, 1)
    assert "not finite" in poison["why"]
    assert (noise["verdict"], noise["count"]) == ("malformed", 3)
    (cut,) = reasons.pop("boaster")
    assert (cut["verdict"], cut["count"]) == ("clipped", 1)
    assert re.search(
        r"its change is .* long; .* counts, it says 1000000 ex", cut["why"]
    )
    assert reasons == {"pi-2": [], "pi-3": []}
    # An empty payload wipes a retained topic: it is not noise.
    assert server._dispatcher.dropped == 3
    _has_no_more_influence_than_the_median(tmp_path / "run")
    _who_is_refused_learns_why_and_so_does_the_operator(tmp_path / "run", caplog.text)


def _has_no_more_influence_than_the_median(run: Path) -> None:
    ledger = read_ledger(run)
    rows = {row.device: row for row in ledger.frozen(1)}
    ledger.close()
    boaster = rows.pop("boaster")
    norms = sorted([boaster.norm, *(row.norm for row in rows.values())])
    assert boaster.norm * boaster.scale == pytest.approx(5 * norms[1])
    counted = sorted(
        row.norm * row.scale * row.weight for row in [boaster, *rows.values()]
    )
    assert counted[-1] == pytest.approx(counted[1])
    assert boaster.weight < min(row.examples for row in rows.values())
    assert {row.scale for row in rows.values()} == {1.0}


def _who_is_refused_learns_why_and_so_does_the_operator(run: Path, logged: str) -> None:
    told = r"task 1-\w+: rejected: .*not finite.*Lower the learning rate, or look for"
    assert re.search(told, logged)  # in the device's own log
    (run / "run.toml").write_text(
        'federation = "poison"\ntask = "digits"\nevaluation = "."\n'
        "densities = [0.2]\nrounds = 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "status", str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(
        r"poisoner: rejected 1 times, last in round 1: .*finite", done.stdout
    )
    assert "pi-1: malformed 3 times" in done.stdout
    assert "boaster: clipped 1 times" in done.stdout
