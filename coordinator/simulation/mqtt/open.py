"""Puts a simulated fleet on a broker: broker, devices and handlers together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from coordinator.broker.check import check_broker
from coordinator.broker.start import open_broker
from coordinator.broker.watch import watched
from coordinator.protocol.link import link_to
from coordinator.simulation.checkpoints import MEMORIES
from coordinator.simulation.dispatch import Dispatch, SimulatedPart, TaskResult
from coordinator.simulation.fleet import SimulatedDevice
from coordinator.simulation.mqtt.devices import devices
from coordinator.simulation.mqtt.handlers import PATIENCE_S, MqttRounds
from coordinator.simulation.mqtt.traffic import TrafficSum
from coordinator.simulation.record import Wire
from coordinator.simulation.workers.interface import Workers
from edge_sdk.errors import SettingsError
from edge_sdk.transport.address import DEFAULT_PORT, parse_url
from edge_sdk.wire.messages import Manifest

__all__ = ["OWN", "check_reachable", "check_transport", "over_mqtt"]

log = logging.getLogger(__name__)

OWN = "mqtt"  # a broker of our own


def check_transport(transport: str) -> str:
    """The transport itself, if there is one of that name.

    Raises:
        SettingsError: If it is neither ``mqtt`` nor a broker's URL.
        BrokerError: If its URL cannot be one.
    """
    if transport and transport != OWN:
        if not transport.startswith(tuple(f"{scheme}://" for scheme in DEFAULT_PORT)):
            raise SettingsError(
                f"--transport {transport!r} is no transport",
                remedy="Take mqtt for a broker that is started here, or the URL of "
                "yours: mqtt://host:port.",
            )
        parse_url(transport)
    return transport


def check_reachable(transport: str) -> None:
    """Asks a broker of the user's, before kernels are compiled and data written.

    Raises:
        BrokerError: If it does not answer, or refuses us.
    """
    if transport and transport != OWN:
        check_broker(parse_url(transport))


@contextmanager
def over_mqtt(
    folder: Path,
    transport: str,
    fleet: Mapping[str, SimulatedDevice],
    workers: Workers,
    *,
    task: str,
    rounds: int,
    patience_s: float = PATIENCE_S,
) -> Iterator[Dispatch]:
    """A fleet on a broker, until the end of the block.

    Args:
        folder: The run's.
        transport: As `check_transport` lets pass.
        fleet: Its devices.
        workers: Who train.
        task: The task's reference.
        rounds: Of the whole run.
        patience_s: How long a round may stand still while nobody trains.

    Raises:
        BrokerError: If the broker does not answer, or none can be started.
        RunError: If the devices do not fit into this process.
    """
    # A device's name may be a writer's or a folder's; in topics it is its number.
    names = {name: f"device-{i:05d}" for i, name in enumerate(sorted(fleet))}
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]
    federation = f"simulation-{place}"
    tally = TrafficSum(federation)
    with ExitStack() as stack:
        url = None if transport == OWN else transport
        broker = stack.enter_context(open_broker(url, folder / "broker"))
        stack.enter_context(watched(broker))
        log.info("broker (%s): %s, topics fl/1/%s", broker.kind, broker.url, federation)
        handlers_close = stack.enter_context(ExitStack())  # after the devices have gone
        those = stack.enter_context(
            devices(
                {names[name]: one for name, one in fleet.items()},
                workers,
                task=task,
                federation=federation,
                address=broker.address,
                state=folder / "devices",
                memories={own: folder / MEMORIES / n for n, own in names.items()},
                tally=tally,
            )
        )
        handlers = MqttRounds(
            federation,
            task,
            rounds,
            link_to(broker.address, federation),
            those,
            patience_s=patience_s,
        )
        handlers_close.callback(handlers.close, list(names.values()))
        yield _OnWire(handlers, names, tally)


class _OnWire:
    """The way, by the names of the fleet."""

    def __init__(
        self, handlers: MqttRounds, names: Mapping[str, str], tally: TrafficSum
    ) -> None:
        self._handlers, self._names, self._tally = handlers, names, tally

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        return self._handlers.shelve(content, round_no)

    def carry(
        self, round_no: int, parts: Mapping[str, SimulatedPart]
    ) -> Mapping[str, TaskResult]:
        on_wire = {self._names[device]: part for device, part in parts.items()}
        done = self._handlers.carry(round_no, on_wire)
        return {device: done[self._names[device]] for device in parts}

    def cost(self) -> Wire:
        return self._tally.since()
