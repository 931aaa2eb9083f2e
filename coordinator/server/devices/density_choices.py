"""The density of each device: what its profile affords, corrected by measured times."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from coordinator.densities import TimeDrift, assign, corrected
from coordinator.ledger import Ledger
from coordinator.rounds.expected_time import ExpectedTime, expect
from coordinator.server.devices.run_program import (
    WORTH_COMPILING_S,
    needs_program,
)
from coordinator.settings import RunSettings
from device_profiles import Choice, DeviceProfile, Engine, Workload, cost_of
from edge_sdk.transport.limits import NO_LIMIT
from edge_sdk.wire.blob import AROUND, CHUNK_SIZE, LARGEST_CHUNK
from edge_sdk.wire.messages import Hello
from edge_sdk.wire.quantize import encoded_size
from edge_sdk.wire.values import agreed

__all__ = ["DensityChoices", "Told"]

log = logging.getLogger(__name__)
CHUNK_S = 4.0  # that a chunk above 64 KiB may take a device's uplink


@dataclass(frozen=True)
class Told:
    """Facts of a device's HELLO from which its density follows."""

    profile: DeviceProfile
    examples: int
    engine: Engine
    codecs: tuple[str, ...]
    by_program: bool = False  # it has no torch: every order names its program
    takes_program: bool = False  # it can race one against torch's engines
    evaluates: bool = False  # it answers evaluation orders


class DensityChoices:
    """The density, the codecs and the predicted times of each device.

    Args:
        settings: The run.
        workload: What a round asks of a device.
        ledger: Where choices are recorded.

    Attributes:
        told: Device -> what it told of itself.
        choices: Device -> its density, and why.
    """

    def __init__(
        self, settings: RunSettings, workload: Workload, ledger: Ledger
    ) -> None:
        self._settings, self._workload, self._ledger = settings, workload, ledger
        self._corrected: dict[str, DeviceProfile] = {}
        self._drift: dict[str, str] = {}
        self._trained_s = 0.0  # of devices that could take a program
        self.told: dict[str, Told] = {}
        self.choices: dict[str, Choice] = {}

    def take(self, device: str, profile: DeviceProfile, hello: Hello) -> None:
        """Choose a device's density, unless its HELLO says what it said before."""
        sparse = {"sparse", "program"} & {*hello.engines}
        engine: Engine = "sparse" if sparse else "masked"
        now = Told(
            *(profile, hello.examples, engine, tuple(hello.codecs)),
            by_program=needs_program(hello),
            takes_program="program" in hello.engines,
            evaluates=hello.evaluates is True,
        )
        if self.told.get(device) != now:  # a fresh profile is believed again
            self.told[device] = now
            self._corrected.pop(device, None)
            self._drift.pop(device, None)
            self._choose(device)

    def drop(self, device: str) -> None:
        """Forgets a device that is turned away, so that no round takes it."""
        self.told.pop(device, None)
        self.choices.pop(device, None)

    def programs(self, devices: Iterable[str], content: bytes) -> dict[str, bytes]:
        """The run's training program for each of these devices that is to have it.

        Args:
            devices: Strangers have none.
            content: The program; empty until it is made, or where there is none.
        """
        given = {d: self.told[d] for d in devices if d in self.told and content}
        return {
            device: content
            for device, its in given.items()
            if its.by_program or its.takes_program
        }

    def evaluates(self, device: str) -> bool:
        """Return whether a device answers evaluation orders; one of 0.1.0 does not."""
        told = self.told.get(device)
        return told is not None and told.evaluates

    def gains(self, device: str, trained_s: float) -> bool:
        """Return whether a program is worth making, by what training takes without.

        Args:
            device: That has trained; it counts if it could take a program.
            trained_s: For so long.
        """
        its = self.told.get(device)
        if its is None or not its.takes_program:
            return False
        self._trained_s += trained_s
        return self._trained_s >= WORTH_COMPILING_S

    def codecs(self, device: str) -> tuple[str, str]:
        """The codecs of its updates and of the models it gets."""
        wanted, told = self._settings.codec, self.told.get(device)
        theirs = told.codecs if told else ()
        return (
            agreed(wanted.up, theirs, zstd=wanted.zstd),
            agreed(wanted.down, theirs, zstd=wanted.zstd),
        )

    def chunk_size(self, device: str, packet: int) -> int:
        """Bytes of a chunk of a device's update, at most.

        A chunk that a link was cut in is sent again whole, so that a slow uplink gets
        small ones. What a broker does not say of its packets may be little.

        Args:
            device: Its name.
            packet: Bytes of a packet that the broker takes, `NO_LIMIT` if unsaid.
        """
        uplink = 1e6 / 8 * self.told[device].profile.uplink_mbit_s
        if packet == NO_LIMIT or uplink * CHUNK_S < LARGEST_CHUNK:
            return CHUNK_SIZE
        return max(min(LARGEST_CHUNK, packet - AROUND), CHUNK_SIZE)

    def predicted(self, device: str, density: float) -> ExpectedTime:
        """Predicted time of a device's part of a round, by its profile."""
        load, engine = self._load(device), self.told[device].engine
        cost = self.choices[device].costs.get(density) or cost_of(
            self._profile(device), load, density, engine=engine
        )
        return expect(cost, load)

    def warm_up_s(self, device: str, epochs: int, max_steps: int) -> float:
        """Predicted seconds of a device's warm-up: dense, top density."""
        alone = replace(self._load(device), batch_passes={})
        load = replace(alone, epochs=epochs, max_steps=max_steps)
        top = max(self._settings.densities)
        return cost_of(self._profile(device), load, top, engine="masked").seconds

    def correct(self, drift: Mapping[str, TimeDrift]) -> None:
        """Chooses anew, between rounds, for devices whose times left their profiles."""
        for device, found in drift.items():
            if self._drift.get(device) == found.sentence or device not in self.told:
                continue
            self._drift[device] = found.sentence
            fixed = corrected(self._profile(device), found)
            # Slow rounds refuse no board: it gets fewer steps, and rests (`deadlines`).
            if self._assign(device, fixed).density is not None:
                self._corrected[device] = fixed
            if found.times > 1:
                log.warning("%s", found.sentence, extra={"device": device})
            self._choose(device)

    def _profile(self, device: str) -> DeviceProfile:
        return self._corrected.get(device, self.told[device].profile)

    def _load(self, device: str) -> Workload:
        return replace(self._workload, examples=max(1, self.told[device].examples))

    def _assign(self, device: str, profile: DeviceProfile) -> Choice:
        """Choose a device's density by a profile."""
        told = self.told[device]
        return assign(
            {device: profile},
            self._workload,
            self._settings.densities,
            self._settings.round_budget_s,
            examples={device: max(1, told.examples)},
            value_bytes=self._value_bytes(device),
            engine=told.engine,
        )[device]

    def _choose(self, device: str) -> None:
        choice = self._assign(device, self._profile(device))
        before = self.choices.get(device)
        self.choices[device] = choice
        drift = self._drift.get(device, "").removeprefix(f"{device}: ")
        self._ledger.assign(
            device, choice.density, f"{choice.why}; {drift}" if drift else choice.why
        )
        said = choice.sentence(device)
        if before is None or before.sentence(device) != said:
            log.info("%s", said, extra={"device": device})

    def _value_bytes(self, device: str) -> float:
        """Bytes per kept value on its wire, the mean of up and down."""
        many = 1 << 20  # so that scales and block ends count in proportion
        both = [
            encoded_size(codec.partition("+")[0], many) for codec in self.codecs(device)
        ]
        return sum(both) / (2 * many)
