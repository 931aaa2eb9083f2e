"""The real coordinator and real devices over a pipe that loses, repeats and delays.

Everything but the broker is what runs in production; the pipe draws from a seed.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import patience

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Contribution, clipped
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.ledger import open_ledger, read_ledger
from coordinator.rounds.state import RoundPhase
from coordinator.rounds.tasks import mask_seed
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity, loop
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.session import SessionPhase
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker, MemoryTransport
from edge_sdk.wire.values import unpack_values

NAMES = ("pi-1", "pi-2")
WAIT_S = patience(120.0)


class LossyBroker(MemoryBroker):
    """Loses a message in ten, sends one in ten twice, holds one in five back.

    What is held back comes after one to six others: late, and in another order.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)
        self._late: list[tuple[int, tuple[str, bytes, bool]]] = []
        self._gate = threading.RLock()
        self.did: Counter[str] = Counter()

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        with self._gate:
            fate = self._rng.random()
            self._late = [(left - 1, it) for left, it in self._late]
            due = [it for left, it in self._late if left <= 0]
            self._late = [item for item in self._late if item[0] > 0]
            if fate < 0.1:
                self.did["lost"] += 1
            elif fate < 0.3:
                self.did["late"] += 1
                wait = int(self._rng.integers(1, 7))
                self._late.append((wait, (topic, payload, retain)))
            else:
                due = [(topic, payload, retain), *due]
            if fate > 0.9:
                self.did["twice"] += 1
                due.append((topic, payload, retain))
        for where, what, kept in due:
            super().route(where, what, retain=kept)


class Device:
    """An agent that can be killed and started again on its journal."""

    def __init__(self, name: str, data: Path, state: Path, broker: MemoryBroker):
        self.name, self.broker, self.state = name, broker, state
        self.examples = load_partition(data)
        self.start()

    def start(self) -> None:
        links: list[MemoryTransport] = []

        def connect(*args: Any) -> MemoryTransport:
            links.append(self.broker.connect(*args))
            return links[0]

        profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        runner = TaskRunner(load_task("digits"), self.examples, "masked")
        me = Identity(self.name, "lossy", "digits", len(self.examples), profile)
        self.agent = Agent(me, connect, Journal(self.state), runner)
        self.link = links[0]
        self.thread = threading.Thread(
            target=self.agent.run, kwargs={"until_done": True}, daemon=True
        )
        self.thread.start()

    def kill(self) -> None:
        """As kill -9: nothing more is said or kept."""
        self.link.die()
        self.agent._session_effects.transport = MemoryBroker().connect(
            lambda _: None, lambda _: None
        )
        self.agent.stop()
        self.thread.join(WAIT_S)
        self.agent._session_effects._work.join(WAIT_S)
        self.agent._session_effects._journal.close()

    def end(self) -> None:
        self.agent.stop()
        self.thread.join(WAIT_S)
        self.agent.close()


def unbroken(run: Path, settings: RunSettings) -> int:
    """Recomputes every round that was done; how many there were."""
    ledger, task = read_ledger(run), load_task("digits")
    layers = layers_of(task.model(), task.dense_layers)
    counts = {float(d): dict(c) for d, c in ledger.get("counts").items()}
    family = MaskFamily.draw(layers, counts, mask_seed(settings.seed, warm_up=False))
    store = ModelStore(run, "digits", layers)
    done = [r for r in ledger.rounds() if r.no and r.phase is RoundPhase.DONE]
    for row in done:
        frozen = ledger.frozen(row.no)
        assert len({r.device for r in frozen}) == len(frozen), "counted twice"
        names = row.base or model_name(0), str(row.model)
        base, kept = map(store.load, names)
        model, _ = ALGORITHMS[settings.algorithm].aggregate(
            base,
            [
                Contribution(
                    r.device,
                    family.masks[r.density],
                    r.weight,
                    clipped(
                        unpack_values(ledger.blob(r.blob), family.masks[r.density]),
                        r.scale,
                    ),
                )
                for r in frozen
            ],
        )
        for name, values in model.masked.items():
            assert values.tobytes() == kept.masked[name].tobytes(), (row.no, name)
    ledger.close()
    return len(done)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_over_a_lossy_pipe_with_crashes_is_whole(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for phase in SessionPhase:
        monkeypatch.setitem(loop.NUDGE_S, phase, 0.2)
    monkeypatch.setattr("coordinator.rounds.deadlines.FIRST_GRACE_S", 3.0)
    monkeypatch.setattr("coordinator.rounds.deadlines.GRACE_S", 2.0)
    monkeypatch.setattr("coordinator.server.run_end.LAST_WORDS_S", 0.2)
    # Every model and update, to recompute it, however many rounds are aborted.
    monkeypatch.setattr("coordinator.checkpoints.models.KEEP", 1000)
    monkeypatch.setattr("coordinator.ledger.Ledger.forget_blobs", lambda *_: None)
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", list(NAMES), alpha=1.0, seed=1
    )
    settings = RunSettings(
        federation="lossy",
        task="digits",
        evaluation=data["evaluation"],
        algorithm="erk",
        densities=[0.2],
        rounds=3,
        wait_for=2,
        training=TrainingSettings(max_steps=4, rate=0.1),
        warm_up=WarmUpSettings(devices=1),
    )
    broker, run, task = LossyBroker(seed), tmp_path / "run", load_task("digits")
    devices = [Device(n, data[n], tmp_path / n, broker) for n in NAMES]
    scored_on = task.eval_data(settings.evaluation)

    def serve(stop_after: int) -> None:
        """A coordinator's life: to the end, or until so many rounds are done."""
        ledger = open_ledger(run)

        def look(_: object) -> None:
            if stop_after <= ledger.rounds_done() < settings.rounds:
                server.stop()

        server = Server(settings, task, scored_on, ledger, broker.connect, observe=look)
        try:
            server.run()
        finally:
            server.close()
            ledger.close()

    try:
        serve(stop_after=1)
        devices[0].kill()
        devices[0].start()
        serve(stop_after=settings.rounds)
    finally:
        for device in devices:
            device.end()
    assert unbroken(run, settings) == settings.rounds
    assert min(broker.did[what] for what in ("lost", "twice", "late")) > 0
