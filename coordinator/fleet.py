"""The fleet as the coordinator knows it: who is here and what each affords."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from coordinator.assignment import assign
from coordinator.ledger import Ledger
from coordinator.rounds import Round
from coordinator.settings import RunSettings
from coordinator.view import DeviceView
from device_profiles import (
    Choice,
    DeviceProfile,
    Engine,
    ProfileError,
    Workload,
    parse_profile,
)
from edge_sdk.wire.messages import Hello, Status
from edge_sdk.wire.quantize import encoded_size
from edge_sdk.wire.values import agreed

__all__ = ["SEEN_S", "Fleet"]

log = logging.getLogger(__name__)

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
        self._observed: dict[str, float] = {}
        self.reported: set[str] = set()  # statuses since somebody cleared it

    # -- what devices say --------------------------------------------------------------

    def heard(self, device: str) -> None:
        """A message came from it: it is alive."""
        self._seen[device] = self._clock()

    def hello(self, device: str, hello: Hello) -> str | None:
        """Takes a device in; returns why not, if it cannot take part."""
        if hello.task != self._settings.task:
            return f"this run trains {self._settings.task}, not {hello.task}"
        try:
            profile = parse_profile(hello.profile, file=f"profile of {device}")
        except ProfileError as error:
            return str(error)
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
        if changed:
            self._choose(device)
        return None

    def note(self, device: str, status: Status) -> None:
        """Takes a status over for displays; going offline ends its presence."""
        self._status[device] = status
        self.reported.add(device)
        if status.online:
            self.heard(device)
        else:
            self._seen.pop(device, None)
        self._ledger.count_traffic(
            device,
            sent=status.sent,
            received=status.received,
            rss_mib=status.rss_mib,
            engine=status.engine,
        )

    def took(self, device: str, seconds: float) -> None:
        """How long its last task took, by its own word."""
        self._observed[device] = seconds

    # -- what follows from it ----------------------------------------------------------

    def present(self) -> set[str]:
        """Devices heard of lately whose profile is known."""
        since = self._clock() - SEEN_S
        return {d for d, at in self._seen.items() if at >= since and d in self._choices}

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

    def expected_s(self, device: str) -> float:
        """Predicted seconds of its part of a round."""
        choice = self._choices[device]
        cost = choice.costs.get(choice.density or 0.0)
        return cost.seconds if cost else self._settings.round_budget_s

    def observed_s(self, device: str) -> float | None:
        """Seconds its last task took, if it did one."""
        return self._observed.get(device)

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
        profile = row["profile"]
        return DeviceView(
            name=name,
            board=str(profile.get("board", "")) if isinstance(profile, dict) else "",
            density=row["density"] if isinstance(row["density"], float) else None,
            why=str(row["why"]),
            online=bool(status and status.online),
            phase=status.phase if status else "",
            task=task,
            engine=str(row["engine"]),
            sent=int(str(row["sent"])),
            received=int(str(row["received"])),
            rss_mib=int(str(row["rss_mib"])),
            refused=refused.get(name, 0),
        )

    def _choose(self, device: str) -> None:
        limit = self._settings.training.max_steps * self._workload.batch
        profile, own, engine, _ = self._said[device]
        choice = assign(
            {device: profile},
            self._workload,
            self._settings.densities,
            self._settings.round_budget_s,
            examples={device: max(1, min(own, limit) if limit else own)},
            value_bytes=self._value_bytes(device),
            engine=engine,
        )[device]
        self._choices[device] = choice
        self._ledger.assign(device, choice.density, choice.why)
        log.info("%s", choice.sentence(device))

    def _value_bytes(self, device: str) -> float:
        """Bytes per kept value on its wire, the mean of up and down."""
        many = 1 << 20  # so that scales and block ends count in proportion
        both = [
            encoded_size(codec.partition("+")[0], many) for codec in self.codecs(device)
        ]
        return sum(both) / (2 * many)
