"""A device that sends poison, and a stranger that sends noise: the round goes on."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.ledger import open_ledger
from coordinator.server import Server
from coordinator.settings import CodecSettings, RunSettings, TrainingSettings
from coordinator.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.journal import Journal
from edge_sdk.models.partition import load_partition
from edge_sdk.models.prepare_data import prepare_folders
from edge_sdk.models.task import load_task
from edge_sdk.training.runner import Packed, TaskRunner
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import pack_values, unpack_values

DEVICES = ("pi-1", "pi-2", "pi-3", "poisoner")


class Poisoner(TaskRunner):
    """Trains honestly, then puts a NaN in its first value; a stranger adds noise."""

    noise: Callable[[], None]

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> Packed:
        self.noise()  # now: the devices it names have said HELLO
        packed = super().run(order, base, stop, structure)
        mask = self._mask(order.mask, structure)
        values = unpack_values(packed.payload, mask)
        first = next(iter(mask))
        poison = values.masked[first].copy()
        poison[0] = np.nan
        masked = {**values.masked, first: poison}
        payload = pack_values(dataclasses.replace(values, masked=masked), mask)
        offer = msgspec.structs.replace(packed.offer, manifest=manifest_of(payload))
        return dataclasses.replace(packed, offer=offer, payload=payload)


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
        kind = Poisoner if name == "poisoner" else TaskRunner
        runner = kind(task, examples, "masked")
        if isinstance(runner, Poisoner):
            runner.noise = make_noise
        agents.append(
            Agent(
                Identity(name, "poison", "digits", len(examples), profile),
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
        wait_for=4,
        training=TrainingSettings(max_steps=3),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )
    ledger = open_ledger(tmp_path / "run")
    server = Server(
        settings, task, task.eval_data(settings.evaluation), ledger, broker.connect
    )
    threads = [
        threading.Thread(target=a.run, kwargs={"until_done": True}) for a in agents
    ]
    for thread in threads:
        thread.start()
    try:
        with caplog.at_level(logging.WARNING):
            server.run()
        for thread in threads:
            thread.join(timeout=20)
    finally:
        for one in agents:
            one.stop()
            one.close()
        server.close()
        ledger.close()
    found = summary(tmp_path / "run")
    assert found["rounds_done"] == 1
    assert found["updates"] == {"1": 3}
    refused = {d["name"]: d["refused"] for d in found["devices"]}
    assert refused == {"pi-1": 0, "pi-2": 0, "pi-3": 0, "poisoner": 1}
    assert "rejected the update of poisoner" in caplog.text
    reasons = {d["name"]: d["refusals"] for d in found["devices"]}
    ((poison,), (noise,)) = reasons.pop("poisoner"), reasons.pop("pi-1")
    assert (poison["verdict"], poison["count"], poison["round"]) == ("rejected", 1, 1)
    assert "not finite" in poison["why"]
    assert (noise["verdict"], noise["count"]) == ("malformed", 3)
    assert reasons == {"pi-2": [], "pi-3": []}
    assert server.dropped == 3  # an empty payload wipes a retained topic: not noise
