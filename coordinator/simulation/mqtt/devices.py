"""The simulated fleet on the wire: the federation's own agent for each device.

Only its training is done elsewhere, by the workers. A fleet is new each time it is
opened: what it had promised before a kill is promised to a round that begins anew.
"""

from __future__ import annotations

import logging
import resource
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from coordinator.simulation.fleet import SimulatedDevice
from coordinator.simulation.mqtt.traffic import CountedTransport, TrafficSum
from coordinator.simulation.workers.interface import (
    THEIR_OWN,
    TrainingJob,
    Workers,
    worker_died,
)
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.errors import RunError
from edge_sdk.storage.blobs import BlobFolder
from edge_sdk.storage.journal import Journal
from edge_sdk.storage.memory import DeviceMemory
from edge_sdk.training.local import Stopped
from edge_sdk.training.update import PackedUpdate
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import Deliver, OnLink, Will
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import (
    DataDescribed,
    DescribeData,
    Evaluate,
    Evaluated,
    TaskOrder,
)

__all__ = ["Devices", "devices"]

log = logging.getLogger(__name__)

ANY_BOARD = "raspberry_pi_4b_4gb"  # what a device without a board says in its HELLO
KEPT_BYTES = 16 << 20  # models and structures that a device keeps on this disk
FILES = 6  # that a device has open: socket, paho's pair, lock, now and then a blob
BASE_FILES = 256  # of everything else here
CLOSING = 16  # devices that say goodbye at a time


class Devices:
    """Simulated devices, as the handlers see them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._training = 0
        self._error: BaseException | None = None

    @property
    def training(self) -> int:
        """Number of devices that train now."""
        return self._training

    def check(self) -> None:
        """Raises what one of them died of, or what its training raised."""
        if self._error is not None:
            raise self._error

    def broke(self, error: BaseException) -> None:
        """Takes down the first."""
        with self._lock:
            self._error = self._error or error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While one trains."""
        with self._lock:
            self._training += 1
        try:
            yield
        finally:
            with self._lock:
                self._training -= 1


class _Runner:
    """Trains in the workers; what an `Agent` asks."""

    engine = ""
    engines = ("sparse", "masked")

    def __init__(self, folder: Path, workers: Workers, all_: Devices) -> None:
        self._folder, self._workers, self._all = folder, workers, all_

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
        memory: bytes = b"",
        program: bytes = b"",
        parts: bytes = b"",
    ) -> PackedUpdate:
        """Waits for a worker; an error that is not the device's own ends the run."""
        work = TrainingJob(self._folder, pack(order), base, structure, memory, parts)
        try:
            with self._all.at_work():
                return self._workers.train(work).result()
        except BrokenExecutor as error:
            died = worker_died()
            died.__cause__ = error
            self._all.broke(died)
            raise Stopped from error
        except THEIR_OWN:  # the coordinator hears of it
            raise
        except BaseException as error:
            self._all.broke(error)
            raise Stopped from error

    def evaluate(self, order: Evaluate, *_: object, **__: object) -> Evaluated:
        """Says that nothing is measured: simulated models are tested in the workers."""
        return Evaluated(order.id, order.model.sha256, 0, why="it is simulated")

    def describe(self, order: DescribeData, *_: object) -> DataDescribed:
        """Says nothing: a simulation makes statistics of the folders themselves."""
        return DataDescribed(order.id, why="it is simulated")


@contextmanager
def devices(
    fleet: Mapping[str, SimulatedDevice],
    workers: Workers,
    *,
    task: str,
    federation: str,
    address: Address,
    state: Path,
    memories: Mapping[str, Path],
    tally: TrafficSum,
) -> Iterator[Devices]:
    """All devices of a fleet, each connected and running until the end of the block.

    Args:
        fleet: By name on the wire.
        workers: Who train.
        task: The task's reference.
        federation: The federation's name.
        address: The broker.
        state: Where they keep their journals; made, and removed at the end.
        memories: Device to the folder of what it remembers, which stays.
        tally: Counts what their links carry.

    Raises:
        RunError: If this process may not open so many files.
    """
    _may_open(BASE_FILES + FILES * len(fleet))
    shutil.rmtree(state, ignore_errors=True)
    all_, agents, threads = Devices(), list[Agent](), list[threading.Thread]()
    talk = logging.getLogger("edge_sdk.agent")  # a line a task, of every device
    before = talk.level
    talk.setLevel(max(before, logging.WARNING))
    try:
        for name, one in fleet.items():
            profile = msgspec.to_builtins(load_board(one.board or ANY_BOARD))
            me = Identity(name, federation, task, one.examples, profile)
            journal = Journal(state / name)
            journal.memory = DeviceMemory(memories[name])
            journal.blobs = BlobFolder(state / name / "blobs", KEPT_BYTES)
            link = partial(_connect, address, f"{federation}-{name}")
            runner = _Runner(one.folder, workers, all_)
            agents.append(
                Agent(me, partial(CountedTransport, link, tally), journal, runner)
            )
            thread = threading.Thread(
                target=_run, args=(agents[-1], all_), name=name, daemon=True
            )
            thread.start()
            threads.append(thread)
        yield all_
    finally:
        for agent in agents:
            agent.stop()
        with ThreadPoolExecutor(CLOSING) as closing:
            ends = [closing.submit(agent.close) for agent in agents]
        for end in ends:
            if end.exception() is not None:
                log.debug("a device did not end well: %s", end.exception())
        for thread in threads:
            thread.join()
        talk.setLevel(before)
        shutil.rmtree(state, ignore_errors=True)


def _connect(
    address: Address,
    client_id: str,
    deliver: Deliver,
    on_link: OnLink,
    will: Will | None,
) -> MqttTransport:
    return MqttTransport(address, client_id, deliver, on_link, will=will)


def _run(agent: Agent, all_: Devices) -> None:
    try:
        agent.run()
    except BaseException as error:  # noqa: BLE001 - the handlers raise it
        all_.broke(error)


def _may_open(files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = files if hard == resource.RLIM_INFINITY else hard
    if files > most:
        raise RunError(
            f"the devices need {files} open files and this process may have {hard}",
            remedy="Raise the limit (ulimit -n, in limits.conf), or simulate fewer "
            "devices over a broker.",
        )
    if files > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
