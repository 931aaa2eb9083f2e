"""The least that accepting an update costs: paho, SHA-256, a synced file, a commit.

Clients send the chunks of an update over a broker and wait for a receipt; the loop
under measurement knows no protocol, no devices and no checks. Run as two processes:
    python tests/bench/bare.py take URL UPDATES BYTES FOLDER
    python tests/bench/bare.py send URL UPDATES BYTES CHUNK
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import sys
import threading
import time
from functools import partial
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_sdk.transport.address import parse_url

sys.path.insert(0, str(Path(__file__).parent))
from light_mqtt import LightMqtt

CLIENTS = 8  # updates under way at a time, and in one commit


class Taker:
    """Receives updates; each is hashed, written and synced, each group committed."""

    def __init__(self, url: str, updates: int, size: int, folder: Path) -> None:
        self._left, self._size, self._folder = updates, size, folder
        self._parts: dict[str, list[bytes]] = {}
        self._group: list[tuple[str, int, str]] = []
        self._db = sqlite3.connect(folder / "bare.sqlite", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE updates (device TEXT, file INT, sha TEXT)")
        self._receipts: list[paho.MQTTMessageInfo] = []  # of the last group
        self._done, self._began = threading.Event(), (0.0, 0.0)
        address = parse_url(url)
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, "bare", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_message = self._take
        self._client.on_subscribe = self._ready
        self._client.connect(address.host, address.port)
        self._client.subscribe("bare/up/+", qos=1)
        self._client.loop_start()

    def run(self) -> dict[str, float]:
        """Waits for the last update; milliseconds of processor for each, and rate."""
        total = self._left
        self._done.wait()
        cpu_s = time.process_time() - self._began[0]
        took_s = time.monotonic() - self._began[1]
        for receipt in self._receipts:
            receipt.wait_for_publish()
        self._client.disconnect()
        self._client.loop_stop()
        self._db.close()
        return {"accept_cpu_ms": 1e3 * cpu_s / total, "updates_per_s": total / took_s}

    def _ready(self, *_: object) -> None:
        self._client.publish("bare/ready", b"yes", retain=True)

    def _take(self, _c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        if self._began == (0.0, 0.0):
            self._began = time.process_time(), time.monotonic()
        device = message.topic.rpartition("/")[2]
        parts = self._parts.setdefault(device, [])
        parts.append(message.payload)
        if sum(map(len, parts)) < self._size:
            return
        whole, number = b"".join(self._parts.pop(device)), self._left
        with open(self._folder / str(number), "wb", buffering=0) as file:  # noqa: PTH123
            file.write(whole)
            os.fsync(file.fileno())
        self._group.append((device, number, hashlib.sha256(whole).hexdigest()))
        self._left -= 1
        if len(self._group) == CLIENTS:
            self._commit()

    def _commit(self) -> None:
        with self._db:
            self._db.executemany("INSERT INTO updates VALUES (?, ?, ?)", self._group)
        self._receipts = [
            self._client.publish(f"bare/down/{device}", b"accepted", qos=1)
            for device, _, _ in self._group
        ]
        self._group.clear()
        if not self._left:
            self._done.set()


class Sender:
    """A client that sends one update after the other, each after the last's receipt."""

    def __init__(self, number: int, updates: int, size: int, chunk: int) -> None:
        self._number, self._left, self._content = number, updates, os.urandom(size)
        self._chunk = chunk
        self.done = asyncio.get_running_loop().create_future()
        will = "bare/will", b""
        self.link = LightMqtt(f"bare-{number}", self._linked, self._told, will)

    def _linked(self) -> None:
        self.link.subscribe(f"bare/down/{self._number}", "bare/ready")

    def _told(self, topic: str, _payload: bytes) -> None:
        self._left -= topic != "bare/ready"
        if self._left:
            self._send()
        else:
            self.link.close()
            self.done.set_result(None)

    def _send(self) -> None:
        for start in range(0, len(self._content), self._chunk):
            chunk = self._content[start : start + self._chunk]
            self.link.publish(f"bare/up/{self._number}", chunk)


async def _send(url: str, updates: int, size: int, chunk: int) -> None:
    address, loop = parse_url(url), asyncio.get_running_loop()
    senders = [Sender(i, updates // CLIENTS, size, chunk) for i in range(CLIENTS)]
    for sender in senders:
        made = partial(getattr, sender, "link")
        await loop.create_connection(made, address.host, address.port)
    await asyncio.gather(*(sender.done for sender in senders))


if __name__ == "__main__":
    WHAT, URL, UPDATES, SIZE, *REST = sys.argv[1:]
    if WHAT == "take":
        taker = Taker(URL, int(UPDATES), int(SIZE), Path(REST[0]))
        print(json.dumps(taker.run()))
    else:
        asyncio.run(_send(URL, int(UPDATES), int(SIZE), int(REST[0])))
