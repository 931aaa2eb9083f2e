"""The fleet as the coordinator knows it: who is here and what each affords."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from coordinator.assignment import Drift, assign, corrected
from coordinator.expectation import Expectation, expect
from coordinator.ledger import Ledger
from coordinator.rounds import Round
from coordinator.settings import RunSettings
from coordinator.unheard import Unheard
from coordinator.view import DeviceView
from device_profiles import (
    Choice,
    DeviceProfile,
    Engine,
    ProfileError,
    Workload,
    cost_of,
    parse_profile,
)
from edge_sdk.wire.messages import Hello, Status
from edge_sdk.wire.quantize import encoded_size
from edge_sdk.wire.values import agreed

__all__ = ["SEEN_S", "Fleet"]

log = logging.getLogger(__name__)

T = TypeVar("T")
SEEN_S = 90.0  # a device not heard of for so long is not invited


class Fleet:
    """Every device of a run.

    Args:
        settings: The run.
        workload: What a round asks of a device.
        ledger: Where devices are recorded.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: RunSettings,
        workload: Workload,
        ledger: Ledger,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._workload = settings, workload
        self._ledger, self._clock = ledger, clock
        self._seen: dict[str, float] = {}
        self._said: dict[str, tuple[DeviceProfile, int, Engine, list[str]]] = {}
        self._examples: dict[str, int] = {}
        self._codecs: dict[str, list[str]] = {}
        self._choices: dict[str, Choice] = {}
        self._status: dict[str, Status] = {}
        self._unheard = Unheard()
        self._corrected: dict[str, DeviceProfile] = {}
        self._drift: dict[str, str] = {}
        self._paces: dict[str, str] = {}
        self._rests: dict[str, float] = {}  # until when, monotonic
        self.reported: set[str] = set()  # statuses since somebody cleared it

    # -- what devices say --------------------------------------------------------------

    def heard(self, device: str) -> None:
        """A message came from it: it is alive."""
        self._seen[device] = self._clock()

    def hello(self, device: str, hello: Hello) -> str | None:
        """Takes a device in; returns why not, if it cannot take part."""
        self._unheard.hello(device)
        if hello.task != self._settings.task:
            ours = self._settings.task
            return (
                f"this run trains {ours}, not {hello.task}: put task = {ours!r} into "
                "the device's settings, with examples for it"
            )
        try:
            profile = parse_profile(hello.profile, file=f"profile of {device}")
        except ProfileError as error:
            return f"{error} {error.help}"
        self._ledger.see_device(
            device,
            profile=hello.profile,
            examples=hello.examples,
            version=hello.version,
        )
        self._codecs[device] = hello.codecs
        engine: Engine = "sparse" if "sparse" in hello.engines else "masked"
        now = profile, hello.examples, engine, hello.codecs
        changed = self._said.get(device) != now
        self._said[device] = now
        self._examples[device] = hello.examples
        if changed:  # a fresh profile is believed again
            self._corrected.pop(device, None)
            self._drift.pop(device, None)
            self._choose(device)
        return None

    def gone(self, device: str) -> None:
        """It is not here any more, whatever it said last."""
        self._seen.pop(device, None)
        self._status.pop(device, None)

    def unlinked(self) -> None:
        """Whether they are here is not known any more; who is says so again.

        Only displays: a round waits for devices whatever happens to our own link.
        """
        for device, status in self._status.items():
            self._status[device] = msgspec.structs.replace(status, online=False)
        self._ledger.nobody_online()

    def note(self, device: str, status: Status) -> None:
        """Takes a status over for displays; going offline ends its presence."""
        self._status[device] = status
        self.reported.add(device)
        if status.online:
            self.heard(device)
            self._ledger.note(device, status.detail)
        else:
            self._seen.pop(device, None)
        self._ledger.count_traffic(
            device,
            sent=status.sent,
            received=status.received,
            rss_mib=status.rss_mib,
            engine=status.engine,
            online=status.online,
            phase=status.phase,
            celsius=_or_none(status.celsius),
            progress=_or_none(status.progress),
        )

    def told(self, device: str, wait_s: float) -> None:
        """It was told to come back after so long: until then it counts as here."""
        self._seen[device] = self._clock() + wait_s

    def rests(self, device: str, seconds: float, why: str) -> None:
        """It cannot work for so long, by its own word; 0 seconds end that."""
        if seconds > 0 and why != self._ledger.note_of(device):
            log.info(
                "%s pauses for %.0f s: %s",
                *(device, seconds, why),
                extra={"device": device},
            )
        self._rests[device] = self._clock() + seconds
        self._ledger.note(device, why)

    # -- what follows from it ----------------------------------------------------------

    def present(self) -> set[str]:
        """Devices heard of lately, whose profile is known and that do not pause."""
        now = self._clock()
        return {
            device
            for device, at in self._seen.items()
            if at >= now - SEEN_S
            and device in self._choices
            and self._rests.get(device, 0.0) <= now
        }

    def unheard(self) -> list[str]:
        """Devices that are connected for long, and whose HELLO has not come."""
        return self._unheard.look(self.online(), self._clock())

    def online(self) -> set[str]:
        """Devices whose last status says so."""
        return {d for d, status in self._status.items() if status.online}

    def affordable(self) -> dict[str, float]:
        """Largest density of each device present that can take part."""
        here = self.present()
        return {
            device: choice.density
            for device, choice in self._choices.items()
            if device in here and choice.density is not None
        }

    def examples(self, device: str) -> int:
        """Examples it said it has; 0 for a stranger."""
        return self._examples.get(device, 0)

    def codecs(self, device: str) -> tuple[str, str]:
        """The codecs of its updates and of the models it gets."""
        wanted, theirs = self._settings.codec, self._codecs.get(device, [])
        return (
            agreed(wanted.up, theirs, zstd=wanted.zstd),
            agreed(wanted.down, theirs, zstd=wanted.zstd),
        )

    def predicted(self, device: str, density: float) -> Expectation:
        """What its part of a round should take at a density, by its profile."""
        choice = self._choices[device]
        load = self._load(device)
        profile, _, engine, _ = self._said[device]
        cost = choice.costs.get(density) or cost_of(
            self._corrected.get(device, profile), load, density, engine=engine
        )
        return expect(cost, load)

    def warm_up_s(self, device: str, epochs: int, max_steps: int) -> float:
        """What the warm-up should take it: dense, at the top density."""
        profile = self._corrected.get(device, self._said[device][0])
        load = replace(self._load(device), epochs=epochs, max_steps=max_steps)
        top = max(self._settings.densities)
        return cost_of(profile, load, top, engine="masked").seconds

    def correct(self, drift: Mapping[str, Drift]) -> None:
        """Chooses anew, between rounds, for devices whose times left their profiles."""
        for device, found in drift.items():
            if self._drift.get(device) == found.sentence:
                continue
            self._drift[device] = found.sentence
            profile = self._corrected.get(device, self._said[device][0])
            self._corrected[device] = corrected(profile, found)
            if found.times > 1:
                log.warning("%s", found.sentence, extra={"device": device})
            self._choose(device)

    def paced(self, why: Mapping[str, str]) -> None:
        """Why devices do only a part of this round, or none; for displays."""
        for device in {*why, *self._paces}:
            now = why.get(device, "")
            if now != self._paces.get(device, ""):
                self._ledger.pace(device, now)
        self._paces = dict(why)

    def cannot(self, device: str) -> str:
        """Why a device gets no task at all, and what to do; empty if it may get one."""
        choice = self._choices.get(device)
        if choice is None or choice.density is not None:
            return ""
        return (
            f"{choice.sentence(device)}. Raise the caps of its profile if they are too "
            "low, or ask the operator for a lower density."
        )

    def refusals(self) -> str:
        """Why devices cannot take part, in one line; empty if any can."""
        if any(c.density is not None for c in self._choices.values()):
            return ""
        return "; ".join(c.sentence(n) for n, c in sorted(self._choices.items()))

    def view(self, open_round: Round | None) -> tuple[DeviceView, ...]:
        """One row per device ever seen."""
        refused: Mapping[str, int] = self._ledger.refusals()
        tasks = open_round.tasks if open_round else {}
        return tuple(
            self._row(
                row, tasks[row["name"]].value if row["name"] in tasks else "", refused
            )
            for row in self._ledger.devices()
        )

    def _row(
        self, row: Mapping[str, object], task: str, refused: Mapping[str, int]
    ) -> DeviceView:
        name = str(row["name"])
        status = self._status.get(name)
        return DeviceView(
            name=name,
            board=str(row["board"]),
            density=row["density"] if isinstance(row["density"], float) else None,
            why=str(row["why"]),
            online=bool(status and status.online),
            phase=status.phase if status else _left(row),
            task=task,
            engine=str(row["engine"]),
            sent=int(str(row["sent"])),
            received=int(str(row["received"])),
            rss_mib=int(str(row["rss_mib"])),
            refused=refused.get(name, 0),
            pace=str(row["pace"]),
            note=str(row["note"]),
            celsius=None if status is None else _or_none(status.celsius),
            progress=None if status is None else _share(status.progress),
            seen_s=self._silent_s(name),
        )

    def _silent_s(self, device: str) -> float | None:
        at = self._seen.get(device)
        return None if at is None else max(self._clock() - at, 0.0)

    def _load(self, device: str) -> Workload:
        return replace(self._workload, examples=max(1, self._said[device][1]))

    def _choose(self, device: str) -> None:
        profile, own, engine, _ = self._said[device]
        choice = assign(
            {device: self._corrected.get(device, profile)},
            self._workload,
            self._settings.densities,
            self._settings.round_budget_s,
            examples={device: max(1, own)},
            value_bytes=self._value_bytes(device),
            engine=engine,
        )[device]
        before = self._choices.get(device)
        self._choices[device] = choice
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


def _or_none(value: T | UnsetType) -> T | None:
    return None if value is UNSET else value


def _left(row: Mapping[str, object]) -> str:
    """The phase of a device that says none: revoked, or not known."""
    return "revoked" if row["phase"] == "revoked" else ""


def _share(permille: int | UnsetType) -> float | None:
    return None if permille is UNSET else permille / 1000
