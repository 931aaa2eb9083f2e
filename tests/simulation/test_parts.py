"""Personal and frozen parts over a fleet: the same bits, and nothing of them sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import patience

from coordinator.broker.start import Broker, open_broker
from coordinator.simulation.mqtt import over_mqtt
from coordinator.simulation.result import Run
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.workers.interface import Workers
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.storage.memory import DIGEST
from edge_sdk.tasks.task import load_task
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire.parts import unpack_own

Make = Callable[..., Simulation]
TASK = load_task("digits")
PARTS = {"personal": ["fc2"], "frozen": ["conv1"], "cohort": 4, "rounds": 3}
APART = {"fc2.weight", "fc2.bias", "conv1.weight", "conv1.bias"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    with open_broker(None, folder, kind="mosquitto") as running:
        yield running


def memories(folder: Path) -> dict[str, bytes]:
    found = sorted((folder / "memories").glob("*/*.memory"))
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in found}


def models(folder: Path) -> list[bytes]:
    found = sorted((folder / "checkpoints").glob("*.safetensors"))
    return [path.read_bytes() for path in found]


def test_what_stays_apart_does_not_move_on_the_coordinator_and_costs_no_bytes(
    make: Make, pool: Workers, tmp_path: Path
) -> None:
    folders = {"whole": {"personal": [], "frozen": []}, "parts": {}}
    runs = {f: make(f, **{**PARTS, **changes}) for f, changes in folders.items()}
    for simulation in runs.values():
        while not simulation.done:
            simulation.step(pool)
    first, *_, last = (
        load_checkpoint(path)
        for path in sorted((tmp_path / "parts" / "checkpoints").glob("*.safetensors"))
    )
    for name, array in last.dense.items():
        assert (array != first.dense[name]).any() == (name not in APART)
    records = runs["parts"].journal.records
    run = Run(tmp_path / "parts", TASK, runs["parts"].settings, records)
    heads = [
        run.model(0.1, device=device).fc2.weight.detach().numpy()
        for device in ("", *records[-1].accepted)
    ]
    assert (heads[0] == first.dense["fc2.weight"]).all()
    assert len({head.tobytes() for head in heads}) == len(heads)
    whole, parts = (s.journal.records[-1] for s in runs.values())
    apart = sum(first.dense[n].size for n in APART)
    assert whole.bytes_up - parts.bytes_up >= 4 * 4 * apart
    assert whole.total_up + whole.total_down > parts.total_up + parts.total_down
    assert {m.partition("/")[0] for m in memories(tmp_path / "parts")} == {
        device
        for record in runs["parts"].journal.records[1:]
        for device in record.accepted
    }


@pytest.mark.broker
def test_over_a_broker_the_bits_are_the_same_and_no_personal_value_is_sent(
    make: Make, pool: Workers, tmp_path: Path, broker: Broker
) -> None:
    without = make("without", **PARTS)
    while not without.done:
        without.step(pool)
    sent, ended = bytearray(), threading.Event()

    def hear(delivery: ReceivedMessage) -> None:
        sent.extend(delivery.payload)
        delivery.ack()
        if delivery.topic == "end":
            ended.set()

    address = Address(broker.host, broker.port)
    ear = MqttTransport(address, "ear", hear, lambda _: None, wait_s=60)
    try:
        ear.subscribe("fl/#", "end")
        over = make("over", **PARTS)
        way: Any = over_mqtt(
            *(tmp_path / "over", broker.url, over.fleet.devices, pool),
            task="digits", rounds=PARTS["rounds"],
        )  # fmt: skip
        own: list[np.ndarray] = []
        with way as opened:
            while not over.done:
                over.step(pool, opened)
                own += personal(tmp_path / "over")
        ear.publish("end", b"end")
        assert ended.wait(patience(60))
    finally:
        ear.close()
    assert models(tmp_path / "over") == models(tmp_path / "without")
    assert memories(tmp_path / "over") == memories(tmp_path / "without")
    heard, first = (
        bytes(sent),
        load_checkpoint(min((tmp_path / "over" / "checkpoints").glob("*.safetensors"))),
    )
    assert first.dense["fc2.weight"].tobytes() in heard  # what it began with was sent
    assert len(own) >= 2 * 4 * PARTS["rounds"]
    for array in own:
        start = first.dense["fc2.weight" if array.ndim == 2 else "fc2.bias"]
        moved = (array != start).reshape(-1, 2).all(axis=1)
        for values in (array, array - start):
            for pair in values.reshape(-1, 2)[moved]:
                assert pair.tobytes() not in heard


def personal(folder: Path) -> list[np.ndarray]:
    """Every device's own values, as they lie on its disk now."""
    found = []
    for content in memories(folder).values():
        found += unpack_own(content[DIGEST:])[0].values()
    return found
