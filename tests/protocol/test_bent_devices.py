"""Devices that answer orders wrongly, each in its way, among honest ones over MQTT.

They are the benchmarks' light devices, of which each bends one kind of message, over a
real mosquitto and before a coordinator's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from brokers import mosquitto
from msgspec.structs import replace
from patience import patience

from edge_sdk.datasets.partition import save_partition
from edge_sdk.tasks.task import Examples
from edge_sdk.transport.address import parse_url
from edge_sdk.wire import topics
from edge_sdk.wire.messages import Data, Message, Need, Offer, Status

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
HONEST, ROUNDS, QUIET_S = 32, 3, 2.0  # with the honest two of three answer: a quorum
RUN = """\
broker = "{url}"
federation = "bent"
task = "digits"
evaluation = "{folder}"
densities = [0.2]
rounds = {rounds}
algorithm = "erk"
wait_for = {devices}
round_budget_s = 20.0
page = ""
[training]
max_steps = 1
[codec]
up = "fp32"
down = "fp32"
zstd = false
"""

Said = list[Message]


def _huge(offer: Offer) -> Offer:
    chunks = [bytes(32)] * 512  # of 256 KiB: what an order may allow at most
    return replace(
        offer,
        manifest=replace(
            offer.manifest, size=1 << 27, chunk_size=1 << 18, chunks=chunks
        ),
    )


def _of_another_round(offer: Offer) -> Offer:
    no, _, rest = offer.task_id.partition("-")
    return replace(offer, task_id=f"{int(no) + 1}-{rest}")


def _larger(offer: Offer) -> Offer:
    """Claims that more follows than the order lets go unasked."""
    one = replace(offer.manifest, size=300_000, chunks=[bytes(32)] * 5)
    return replace(offer, follows=True, manifest=one)


# Mode -> what is said in place of an offer. The coordinator gets no update of theirs.
OFFERS: dict[str, Callable[[Offer], Offer]] = {
    "a gigabyte": _huge,
    "another round": _of_another_round,
    "more than is allowed follows": _larger,
    "another mask": lambda o: replace(o, mask_digest=bytes(32)),
    "another codec": lambda o: replace(o, codec="int4+zstd"),
    "too many examples": lambda o: replace(o, examples=2**63 - 1),
    "no number": lambda o: replace(o, norm=float("nan")),
    "negative seconds": lambda o: replace(o, metrics={"training_s": -1e9}),
    "no bytes": lambda o: replace(o, manifest=replace(o.manifest, size=0, chunks=[])),
}
# Mode -> (chunk, whether it is the first time) -> what is sent in its place.
CHUNKS: dict[str, Callable[[Data, bool], Said]] = {
    "cut short": lambda d, _: [replace(d, chunk=d.chunk[:-1])],
    "too long": lambda d, _: [replace(d, chunk=d.chunk + b"x")],
    "flipped": lambda d, _: [replace(d, chunk=bytes([d.chunk[0] ^ 1]) + d.chunk[1:])],
    "out of range": lambda d, _: [replace(d, index=d.index + 7)],
}
# The same of those whose update counts in the end.
LOSSES: dict[str, Callable[[Data, bool], Said]] = {
    "twice": lambda d, _: [d, d, d],
    "lost at first": lambda d, first: [] if first else [d],
    "flipped at first": lambda d, first: [replace(d, chunk=bytes(9))] if first else [d],
}
MODES = ["honest"] * HONEST + ["link lost", *LOSSES, *OFFERS, *CHUNKS]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    import light as found

    yield found
    for name in ("light", "light_mqtt", "light_updates"):
        sys.modules.pop(name, None)


def bent(light: ModuleType, number: int, fleet: Any) -> Any:
    """A light device with the number's mode."""

    class Device(light.LightDevice):  # type: ignore[name-defined, misc]
        mode, needs = MODES[number], 0
        spoilt: set[str] = set()  # noqa: RUF012 - set anew in each round

        def _feed(self, event: Any) -> None:
            if isinstance(getattr(event, "message", None), Need):
                self.needs += 1
            super()._feed(event)

        def _say(self, message: Message, *, data: bool = False) -> None:
            said: Said = [message]
            if isinstance(message, Offer) and self.mode in OFFERS:
                said = [OFFERS[self.mode](message)]
            elif isinstance(message, Data):
                first = message.task_id not in self.spoilt
                self.spoilt = {message.task_id}
                change = {**CHUNKS, **LOSSES}.get(self.mode)
                said = [message] if change is None else change(message, first)
                if self.mode == "link lost" and first:
                    self.link._transport.abort()
                    return
            for one in said:
                super()._say(one, data=data)

        def again(self) -> Any:
            """The next connection: the session goes on."""
            will = self._pack(Status(online=False, phase="idle"))
            topic = topics.status("bent", self.name)
            mqtt = sys.modules["light_mqtt"]
            self.link = mqtt.LightMqtt(
                self.name, self._linked, self._take, (topic, will)
            )
            return self.link

    return Device(number, "bent", "digits", fleet)


async def _run(
    light: ModuleType, url: str, coordinator: subprocess.Popen[bytes]
) -> Any:
    """Light devices of every mode, until the run is done or has died."""
    address, fleet = parse_url(url), light.Fleet("digits", coordinator.pid)
    loop = asyncio.get_running_loop()
    devices = [bent(light, number, fleet) for number in range(len(MODES))]
    for device in devices:
        await loop.create_connection(
            lambda d=device: d.link,  # type: ignore[misc]
            *(address.host, address.port),
        )
    until = time.monotonic() + patience(240)
    while not fleet.done.is_set() and coordinator.poll() is None:
        assert time.monotonic() < until, "the run does not end"
        await asyncio.sleep(0.05)
        for device in devices:
            if device.link.lost:
                await loop.create_connection(device.again, address.host, address.port)
            elif device.quiet_since < time.monotonic() - QUIET_S:
                device.nudge()
    await asyncio.sleep(0.2)  # the last status of each
    for device in devices:
        device.link.close()
    return devices


def test_devices_that_answer_wrongly_are_named_and_the_others_go_on(
    light: ModuleType, tmp_path: Path
) -> None:
    """What is lost or cut off is asked for again; small updates need no NEED."""
    pixels = np.random.default_rng(1).integers(0, 255, (32, 1, 8, 8), np.uint8)
    labels = np.arange(32, dtype=np.int64) % 10
    save_partition(tmp_path, Examples(pixels, labels), part="eval")
    with (
        mosquitto(tmp_path, "allow_anonymous true") as broker,
        (tmp_path / "log").open("wb") as log,
    ):
        given = {"url": broker.url, "folder": tmp_path, "rounds": ROUNDS}
        text = RUN.format(**given, devices=len(MODES))
        (tmp_path / "run.toml").write_text(text)
        coordinator = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "run", str(tmp_path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            devices = asyncio.run(_run(light, broker.url, coordinator))
            code = coordinator.wait(patience(60))
        finally:
            with contextlib.suppress(ProcessLookupError):
                coordinator.kill()
            coordinator.wait()
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert "Traceback" not in said
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        phases = db.execute("SELECT no, phase FROM rounds WHERE no > 0").fetchall()
        counted = set(db.execute("SELECT round, device FROM updates WHERE frozen"))
        refused = {row[0] for row in db.execute("SELECT device FROM refusals")}
        failed = {
            row[0]
            for row in db.execute(
                "SELECT device FROM tasks WHERE phase IN ('rejected', 'expired')"
            )
        }
    assert phases == [(no, "done") for no in range(1, ROUNDS + 1)]
    for device in devices:
        of_it = {(no, device.name) for no in range(1, ROUNDS + 1)}
        if device.mode in {*OFFERS, *CHUNKS}:
            assert not counted & of_it, device.mode
            assert device.name in refused | failed, device.mode
        else:
            assert of_it <= counted, device.mode
    assert [d.needs for d in devices if d.mode == "honest"] == [0] * HONEST
    assert all(d.needs >= ROUNDS for d in devices if d.mode == "lost at first")
