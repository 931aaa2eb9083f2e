"""The fleet as the coordinator knows it: who is here and what each affords."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from coordinator.ledger import Ledger
from coordinator.server.devices.density_choices import DensityChoices
from coordinator.server.devices.owner_limits import OwnerLimits
from coordinator.server.devices.presence import (
    Presence,
    Said,
    Unheard,
    is_news,
    speaks_again,
)
from coordinator.server.devices.run_program import RunProgram
from coordinator.server.devices.standing import Standings
from coordinator.server.devices.status_records import StatusRecords, or_none
from coordinator.settings import RunSettings
from coordinator.views.device_view import DeviceView
from device_profiles import ProfileError, Workload, parse_profile
from edge_sdk.errors import two_sentences
from edge_sdk.wire.codec import Header, pack
from edge_sdk.wire.messages import Hello, Status

__all__ = ["DeviceRegistry"]

log = logging.getLogger(__name__)

WRITE_S = 1.0  # between two rows of what a device says of itself
NOW: dict[str, Any] = dict.fromkeys(("celsius", "progress", "battery", "open_min"))


class DeviceRegistry:
    """Every device of a run.

    Args:
        settings: The run.
        workload: What a round asks of a device.
        ledger: Where devices are recorded.
        clock: Monotonic seconds.
        program: The run's training program, for devices without torch.

    Attributes:
        densities: What each device affords.
        standings, owner_limits: Who may be asked, and how long its owner lets it work.
        reported: Devices with a status since somebody cleared it.
    """

    def __init__(
        self,
        settings: RunSettings,
        workload: Workload,
        ledger: Ledger,
        clock: Callable[[], float],
        program: RunProgram,
    ) -> None:
        self.program = program
        self._task, self._ledger, self._clock = settings.task, ledger, clock
        self._presence, self._unheard = Presence(), Unheard()
        self._status, self._written = StatusRecords(ledger), clock()
        self._paces: dict[str, str] = {}
        self._rests: dict[str, float] = {}  # until when, monotonic
        self._words: dict[str, Said] = {}  # the newest status of each
        self._boots: dict[str, int] = {}  # the life of each that said hello last
        self.densities = DensityChoices(settings, workload, ledger)
        self.standings = Standings(ledger)
        self.owner_limits = OwnerLimits(ledger, clock)
        self.reported: set[str] = set()

    # -- what devices say --------------------------------------------------------------

    def heard(self, device: str, header: Header | None = None) -> None:
        """Mark a device as here, because a message other than a status came from it.

        Args:
            device: Its name.
            header: Of the message; None if it says nothing about displays.
        """
        self._presence.heard(device, self._clock())
        said, shown = self._words.get(device), self._status.get(device)
        if header is None or said is None or shown is None:
            return
        self._words[device] = said = speaks_again(said, header) or said
        if said.online and not shown.online:
            self._status.take(device, msgspec.structs.replace(shown, online=True))

    def hello(self, device: str, hello: Hello, boot: int = 0) -> str | None:
        """Takes a device in; returns why not, if it cannot take part.

        Args:
            device: Its name.
            hello: What it says of itself.
            boot: Which of its lives says so.
        """
        self._unheard.hello(device)
        if hello.task != (ours := self._task):
            return (
                f"this run trains {ours}, not {hello.task}: put task = {ours!r} into "
                "the device's settings, with examples for it"
            )
        try:
            profile = parse_profile(hello.profile, file=f"profile of {device}")
        except ProfileError as error:
            return two_sentences(error, error.help)
        known = self._ledger.see_device(
            device,
            profile=hello.profile,
            examples=hello.examples,
            version=hello.version,
            said=_digest(hello),
            consent=or_none(hello.consent) or "",
        )
        self._status.hello(device)
        rebooted = self._boots.get(device, boot) != boot
        self._boots[device] = boot
        if rebooted:  # what held its last life back is said again if it still does
            self._rests.pop(device, None)
        self.standings.hello(device, changed=not known, rebooted=rebooted)
        self.densities.take(device, profile, hello)
        # Its status may have come before the ledger had a row for it, or be lost.
        here = Status(online=True, phase="idle")
        self._status.take(device, self._status.get(device) or here)
        return None

    def gone(self, device: str) -> None:
        """Mark a device as absent, whatever it reported last."""
        self._presence.gone(device)
        self._status.forget(device)

    def unlinked(self) -> None:
        """Mark all devices as unknown after our own link was lost.

        Only displays: a round waits for devices whatever happens to our own link.
        """
        self._status.all_offline()

    def note(self, device: str, header: Header, status: Status) -> bool:
        """Takes a status over for displays; a will or goodbye ends its presence.

        Returns:
            Whether it was news; an old one that is said again changes nothing.
        """
        before = self._words.get(device)
        said = is_news(before, header, status)
        if said is None:
            # Retained, and repeated by the broker after our own link was down.
            newest = before and (before.boot, before.seq, before.online)
            shown = self._status.get(device)
            if newest == (header.boot, header.seq, status.online) and (
                shown and shown.online != status.online
            ):
                self._status.take(device, status)
            return False
        self._words[device] = said
        self.reported.add(device)
        self.owner_limits.take(device, status)
        if status.online:
            self.heard(device)
            self._status.note(device, status.detail)
        else:
            self._presence.gone(device)
        self._status.take(device, status)
        return True

    def tick(self) -> None:
        """Writes what devices have said of themselves, once in a while."""
        if self._clock() - self._written >= WRITE_S:
            self.record()

    def record(self) -> None:
        """Writes what they have said of themselves and is not in the ledger yet."""
        self._status.write()
        self._written = self._clock()

    def expect(self, device: str, silent_s: float) -> None:
        """Allow a device to be silent for so long: it waits, or has work to do."""
        self._presence.expect(device, self._clock() + silent_s)

    def rests(self, device: str, seconds: float, why: str) -> None:
        """Record a device's pause in seconds; 0 ends it."""
        before = self._status.note(device, why)
        if seconds > 0 and why != before:
            told = device, seconds, why
            log.info("%s pauses for %.0f s: %s", *told, extra={"device": device})
        self._rests[device] = self._clock() + seconds
        self.expect(device, seconds)

    # -- what follows from it ----------------------------------------------------------

    def present(self) -> set[str]:
        """Devices that are here, whose profile is known and that do not pause."""
        now = self._clock()  # asked with each HELLO, and few devices pause
        return self.joined() - {d for d, until in self._rests.items() if until > now}

    def joined(self) -> set[str]:
        """Devices that are here and whose profile is known, those that pause too."""
        return self._presence.here(self._clock()) & self.densities.choices.keys()

    def pausing(self) -> list[str]:
        """Devices that are here and pause, by their own word, in order."""
        return sorted(d for d in self.joined() if self.pauses(d))

    def pauses(self, device: str) -> bool:
        """Return whether a device reports that its owner's limits pause it."""
        return self._rests.get(device, 0.0) > self._clock()

    def unheard(self) -> list[str]:
        """Devices that are connected for long, and whose HELLO has not come."""
        return self._unheard.look(self.online(), self._clock())

    def online(self) -> set[str]:
        """Devices whose last status says so."""
        return self._status.online()

    def affordable(self) -> dict[str, float]:
        """Largest density of each device present that can take part."""
        here = self.present()
        return {
            device: choice.density
            for device, choice in self.densities.choices.items()
            if device in here and choice.density is not None
        }

    def examples(self, device: str) -> int:
        """Examples it said it has; 0 for a stranger."""
        told = self.densities.told.get(device)
        return told.examples if told else 0

    def programs(self, devices: Iterable[str]) -> dict[str, bytes]:
        """The training program of each of these devices that needs or takes one."""
        return self.densities.programs(devices, self.program.content)

    def paced(self, why: Mapping[str, str]) -> None:
        """Record why devices do only a part of this round; for displays."""
        for device in {*why, *self._paces}:
            now = why.get(device, "")
            if now != self._paces.get(device, ""):
                self._ledger.pace(device, now)
        self._paces = dict(why)

    def cannot(self, device: str) -> str:
        """The reason why a device gets no task at all, with the remedy; or ""."""
        choice = self.densities.choices.get(device)
        if choice is None or choice.density is not None:
            return ""
        return (
            f"{choice.sentence(device)}. Raise the caps of its profile if they are too "
            "low, or ask the operator for a lower density."
        )

    def hopeless(self, *, failing: bool) -> str:
        """The reason why no known device can do its part; empty if one may.

        Devices that have not said hello to this coordinator may.

        Args:
            failing: Whether a device that failed last time counts as one that cannot.
        """
        said = {}
        for name in (row.name for row in self._ledger.devices()):
            choice = self.densities.choices.get(name)
            standing = self.standings.of(name)
            if standing.lasting or (failing and standing.failures):
                said[name] = f"{name}: {standing.why or 'it failed last time'}"
            elif choice is not None and choice.density is None:
                said[name] = choice.sentence(name)
            else:
                return ""
        return "; ".join(said[name] for name in sorted(said))

    def view(self) -> tuple[DeviceView, ...]:
        """Every device ever seen: as the ledger has it, and what is known just now."""
        self.record()
        return tuple(
            self._now(device) for device in self._ledger.devices_as(DeviceView)
        )

    def _now(self, device: DeviceView) -> DeviceView:
        heard = self._presence.silent_s(device.name, self._clock())
        if device.name in self._status:
            return replace(device, seen_s=heard)
        left = device.phase if device.is_revoked else ""  # of before, or revoked
        return replace(device, seen_s=heard, online=False, phase=left, **NOW)


def _digest(hello: Hello) -> str:
    """Digest of a device's HELLO, without its phase, its task and its free disk."""
    plain = msgspec.structs.replace(hello, phase="", task_id=None, free_disk_mib=0)
    return hashlib.sha256(pack(plain)).hexdigest()[:16]
