"""Measures what tests of models on devices add to a round's bytes.

Run from the root of the project:
    python tests/bench/bench_evaluation.py [--devices N] [--rounds N]
        [--cases digits:0.05,watch:0.1,...] [--json FILE]

A real coordinator and mosquitto, and the agent's own loop for each device, in this
process; training and measuring are left out, as they change no byte. Each MQTT message
of a device is counted with its topic and its acknowledgement. *Tests* are the fields
that tests add to orders and acknowledgements, and messages of their own; *rounds* all
other bytes from the second round's orders on. What the end of a run costs stands apart:
the last model's test, and the answer that was still to ride. Nothing is signed here:
signatures add to rounds and not to tests. Figures of the day: docs/adr/0072.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from coordinator.ledger import read_ledger
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.json_text import to_json
from edge_sdk.sparse import draw
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import load_task
from edge_sdk.training.local import TrainingResult
from edge_sdk.training.update import PackedUpdate, packed, packed_change
from edge_sdk.transport.address import Address, parse_url
from edge_sdk.transport.base import Deliver, OnLink, Will
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire import topics
from edge_sdk.wire.codec import decode, pack
from edge_sdk.wire.messages import Evaluate, Evaluated, TaskAck, TaskOrder
from edge_sdk.wire.values import Values, unpack_values

FEDERATION, EXAMPLES, ACK = "tests", 100, 4
CASES = "digits:0.05,digits:0.1,watch:0.05,watch:0.1,mnist:0.05"


class Counts:
    """Bytes of all devices together, by what they are for.

    Args:
        rounds: The last round's number.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._lock, self.bytes = threading.Lock(), Counter[str]()

    def count(self, topic: str, payload: bytes) -> None:
        """Counts one MQTT message and its acknowledgement."""
        size = 5 + len(topic) + 2 + len(payload) + ACK
        kind, extra = "rounds", 0
        if not isinstance(topics.parse(topic, FEDERATION), topics.ChunkTopic):
            message, no = decode(payload).message, decode(payload).header.round_no
            match message:
                case Evaluate() | Evaluated():
                    ends = message.id.startswith(("test-", f"{self._rounds}-"))
                    kind = "last" if ends else "tests"
                case TaskOrder() if message.test is not None:
                    extra = _spared(message, test=None)
                case TaskAck() if message.tested is not UNSET:
                    extra = _spared(message, tested=UNSET)
                case _:
                    kind = "rounds" if no > 1 else "before"
        with self._lock:
            self.bytes[kind] += size - extra
            self.bytes["tests"] += extra


def _spared(message: TaskOrder | TaskAck, **without: Any) -> int:
    return len(pack(message)) - len(pack(msgspec.structs.replace(message, **without)))


class Counted:
    """A link whose messages are counted."""

    def __init__(self, counts: Counts, open_: Callable[..., Any], *given: Any) -> None:
        deliver, *rest = given
        self._counts = counts

        def counted(message: Any) -> None:
            if message.payload:
                counts.count(message.topic, message.payload)
            deliver(message)

        self._link = open_(counted, *rest)

    def publish(self, topic: str, payload: bytes, **how: Any) -> None:
        self._counts.count(topic, payload)
        self._link.publish(topic, payload, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class NoWork:
    """A runner that neither trains nor measures."""

    engine, engines = "masked", ("masked",)

    def __init__(self, task: str) -> None:
        found = load_task(task)
        self._layers = layers_of(make_model(found, 0), found.dense_layers)
        self._made: dict[tuple[int, bytes], tuple[Any, bytes, float]] = {}
        self._lock = threading.Lock()

    def run(
        self, order: TaskOrder, base: bytes, stop: object, **_: object
    ) -> PackedUpdate:
        key = order.round_no, order.mask.digest
        with self._lock:
            if key not in self._made:
                self._made[key] = self._change(order, base)
            mask, payload, norm = self._made[key]
        done = TrainingResult(EXAMPLES, 1, 0.5, 0.01)
        return packed(order, mask, payload, norm, done, 0.01)

    def _change(self, order: TaskOrder, base: bytes) -> tuple[Any, bytes, float]:
        mask = draw(self._layers, dict(order.mask.counts), order.mask.seed)
        start, rng = unpack_values(base, mask), np.random.default_rng(order.round_no)
        masked = {
            n: rng.normal(0, 1e-3, v.shape).astype(np.float32)
            for n, v in start.masked.items()
        }
        dense = {n: np.zeros_like(v) for n, v in start.dense.items()}
        change = Values(mask.digest, masked, dense)
        return mask, *packed_change(order, change, mask, EXAMPLES)

    def evaluate(self, order: Evaluate, *_: object, **__: object) -> Evaluated:
        sums: dict[str, list[float]] = {name: [15, 20] for name in order.metrics}
        return Evaluated(order.id, order.model.sha256, 20, sums)


def main() -> None:
    """Prints the table; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cases", default=CASES, help="task:density, ...")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("edge_sdk").setLevel(logging.CRITICAL)  # the broker ends first
    rows = []
    print("task     density  bytes of a round  of its test   share   last model's test")
    for case in given.cases.split(","):
        task, density = case.split(":")
        row = _measure(task, float(density), given.devices, given.rounds)
        rows.append(row)
        print(
            f"{task:8s} {density:>7s} {row['round']:17,.0f} {row['test']:12,.0f} "
            f"{100 * row['share']:7.2f} % {row['last']:10,.0f}",
            flush=True,
        )
    if given.json:
        found = {"devices": given.devices, "rounds": given.rounds, "cases": rows}
        given.json.write_text(to_json(found, indent=1), encoding="utf-8")


def _measure(task: str, density: float, devices: int, rounds: int) -> dict[str, Any]:
    """Bytes of one device and round."""
    counts = Counts(rounds)
    with tempfile.TemporaryDirectory(prefix="flash-tests-") as name:
        folder = Path(name)
        (folder / "run").mkdir()
        (folder / "run" / "run.toml").write_text(
            f'federation = "{FEDERATION}"\ntask = "{task}"\nalgorithm = "erk"\n'
            'evaluation = "devices"\n'
            f"densities = [{density}]\nrounds = {rounds}\nholdout = 0.2\n"
            f"wait_for = {devices}\nround_budget_s = 600.0\n",
            encoding="utf-8",
        )
        log = folder / "coordinator.log"
        with log.open("wb") as out:
            coordinator = subprocess.Popen(
                [sys.executable, "-m", "coordinator.cli", "run", str(folder / "run")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            _play(folder, task, devices, counts, coordinator)
        finally:
            coordinator.terminate()
            coordinator.wait(30)
        if coordinator.returncode:
            raise SystemExit(log.read_text()[-3000:])
        with closing(read_ledger(folder / "run")) as ledger:
            tested = {r.device for r in ledger.evaluations(rounds - 1) if r.device}
    parts, found = devices * (rounds - 1), counts.bytes
    return {
        "task": task,
        "density": density,
        "round": found["rounds"] / parts,
        "test": found["tests"] / parts,
        "share": found["tests"] / found["rounds"],
        "last": found["last"] / devices,
        "answered": len(tested),
    }


def _play(
    folder: Path,
    task: str,
    devices: int,
    counts: Counts,
    coordinator: subprocess.Popen[bytes],
) -> None:
    url = folder / "run" / "broker.url"
    while not url.exists():
        if coordinator.poll() is not None:
            raise SystemExit((folder / "coordinator.log").read_text()[-3000:])
        time.sleep(0.1)
    address = parse_url(url.read_text().strip())
    profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
    runner, agents, threads = NoWork(task), [], []
    for number in range(devices):
        me = Identity(f"pi-{number:03}", FEDERATION, task, EXAMPLES, profile)
        link = partial(_open, address, me.name)
        journal = Journal(folder / me.name)
        agents.append(Agent(me, partial(Counted, counts, link), journal, runner))  # type: ignore[arg-type]
        threads.append(
            threading.Thread(target=partial(agents[-1].run, until_done=True))
        )
        threads[-1].start()
    for agent, thread in zip(agents, threads, strict=True):
        thread.join()
        agent.close()
    coordinator.wait()


def _open(
    address: Address, name: str, deliver: Deliver, on_link: OnLink, will: Will
) -> MqttTransport:
    return MqttTransport(address, name, deliver, on_link, will=will)


if __name__ == "__main__":
    main()
