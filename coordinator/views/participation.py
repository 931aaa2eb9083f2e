"""Participation of devices in a run, with reasons: pure, from ledger rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.ledger.device_rows import DeviceRow
from coordinator.views.round_view import RoundView

__all__ = [
    "NEVER_ASKED",
    "SELDOM_COUNTED",
    "Participation",
    "Share",
    "participation",
    "sits_out",
]

NEVER_ASKED, NEVER_COUNTED = "never asked", "asked, never counted"
SELDOM_COUNTED = "seldom counted"
# Where a round draws some of many, one that should have been drawn so often and was not
# (5 % by chance) is worth a word.
DRAWS = 3
NOT_DRAWN = "a round asks only some, and it was not drawn yet"
LOST = "it was not here when rounds opened, or its HELLO was lost: read its log"
NOT_AWAITED = (
    "a round asks only some and is over with the first updates: selection = "
    '"fair" asks it first and waits for it'
)
AWAY = "it was seldom here when rounds opened"
# Who would be in so many models in equal parts, and is in a quarter of them, is seldom
# there (0.2 % by chance).
EQUAL_PART, SELDOM = 12, 0.25


@dataclass(frozen=True, slots=True)
class Share:
    """One device's part in the rounds after the warm-up."""

    name: str  # the device
    examples: int  # how many it says it has
    asked: int  # rounds that it got a task of
    trained: int  # rounds whose model its update is in
    last: int | None  # the last of those; None if there is none
    # until when and why it is not asked at all; empty while it may be
    sits_out: str = ""
    warning: str = ""  # `NEVER_ASKED`, `NEVER_COUNTED`, `SELDOM_COUNTED`, or empty
    reason: str = ""  # why, in a sentence; empty without a warning
    seen: int = 0  # examples of its accepted updates, over all rounds
    # of those of all devices, its part; None before there are any
    part: float | None = None


@dataclass(frozen=True, slots=True)
class Participation:
    """A run's participation."""

    rounds: int  # rounds done, the warm-up aside
    examples: int  # of all devices together
    examples_trained: int  # of the devices whose update is in at least one model
    # of all examples, those that have trained at least once; None without any
    share: float | None
    devices: tuple[Share, ...]  # by name

    @property
    def warnings(self) -> tuple[Share, ...]:
        """Devices with a warning."""
        return tuple(one for one in self.devices if one.warning)


def participation(
    devices: Sequence[DeviceRow],
    parts: Mapping[str, Mapping[str, Any]],
    standing: Mapping[str, Mapping[str, Any]],
    rounds: Sequence[RoundView],
    *,
    cohort: int = 0,
    folded: int = 0,
    seen: Iterable[Mapping[str, Any]] = (),
) -> Participation:
    """Participation of each device, from rows of the ledger.

    Args:
        devices: Its devices.
        parts: Device -> ``asked``, ``trained``, ``last`` and ``why`` over all rounds
            after the warm-up; devices without a task are not in.
        standing: Device -> ``joined`` (the round at its first HELLO), ``until`` and
            ``why`` of a device that sits out; devices that the ledger has nothing of
            are not in.
        rounds: Every round.
        cohort: Updates that a round wants; 0 is one of every device.
        folded: Rounds done that are in the ledger as sums alone.
        seen: ``device`` and ``examples`` of its accepted updates, summed by anything.

    Example:
        >>> pi = DeviceRow("pi-1", examples=90, density=0.1)
        >>> found = participation([pi], {}, {}, [RoundView(1)])
        >>> found.share, found.devices[0].warning, found.devices[0].reason
        (0.0, 'never asked', 'it is offline')
    """
    opened = [r.no for r in rounds if r.no > 0]
    crowded = 0 < cohort < len(devices)
    shares = []
    done = folded + sum(r.is_done for r in rounds if r.no > 0)
    there = {
        d.name: max(done - max(standing.get(d.name, {}).get("joined", 0) - 1, 0), 0)
        for d in devices
    }
    counted = sum(parts.get(d.name, {}).get("trained", 0) for d in devices)
    rate = counted / max(sum(there.values()), 1)
    sums: Counter[str] = Counter()
    for one in seen:
        sums[one["device"]] += one["examples"]
    for device in devices:
        name = device.name
        part, stands = parts.get(name, {}), standing.get(name, {})
        asked, trained = part.get("asked", 0), part.get("trained", 0)
        missed = sum(no >= stands.get("joined", 0) for no in opened)
        out = sits_out(stands)
        warning = reason = ""
        drawn = missed * (cohort / len(devices) if crowded else DRAWS)
        if not asked and drawn >= DRAWS:
            warning, reason = (
                NEVER_ASKED,
                _why_not(device, out, NOT_DRAWN if crowded else LOST),
            )
        elif asked > 1 and not trained:
            warning, reason = NEVER_COUNTED, out or part.get("why") or "it was late"
        elif trained <= SELDOM * rate * there[name] >= SELDOM * EQUAL_PART:
            warning = SELDOM_COUNTED
            reason = f"{trained} of about {rate * there[name]:.0f} models, " + (
                out
                or part.get("why")
                or _why_not(device, out, NOT_AWAITED if crowded else AWAY)
            )
        shares.append(
            Share(
                name=name,
                examples=device.examples,
                asked=asked,
                trained=trained,
                last=part.get("last"),
                sits_out=out,
                warning=warning,
                reason=reason,
                seen=sums[name],
                part=sums[name] / sums.total() if sums.total() else None,
            )
        )
    examples = sum(one.examples for one in shares)
    have_trained = sum(one.examples for one in shares if one.trained)
    return Participation(
        rounds=done,
        examples=examples,
        examples_trained=have_trained,
        share=have_trained / examples if examples else None,
        devices=tuple(shares),
    )


def sits_out(stands: Mapping[str, Any]) -> str:
    """A sentence on how long and why a device is not asked; empty if it may be.

    Args:
        stands: Its ``until`` (a round; None until its HELLO says something else) and
            ``why``; empty for a device that may be asked.

    Example:
        >>> sits_out({"until": 9, "why": "failed 2 times: disk full"})
        'sits out until round 9: failed 2 times: disk full'
        >>> sits_out({"until": None, "why": "ValueError"})
        'sits out until its HELLO says something else: ValueError'
    """
    if not stands.get("why"):
        return ""
    until = stands["until"]
    when = "its HELLO says something else" if until is None else f"round {until}"
    return f"sits out until {when}: {stands['why']}"


def _why_not(device: DeviceRow, out: str, otherwise: str) -> str:
    """Reason that a device is in no or few models, as far as the ledger tells."""
    said = (
        (
            device.density is None,
            f"it cannot take part: {device.why or 'its HELLO was not taken'}",
        ),
        (out, f"it {out}"),
        (not device.online, "it is offline"),
        (device.note, f"it pauses: {device.note}"),
        (device.pace, device.pace),
    )
    return next((words for holds, words in said if holds), otherwise)
