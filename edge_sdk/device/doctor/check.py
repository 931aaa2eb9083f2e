"""Target, findings and output of `flash-edge doctor`."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeAlias

from device_profiles import ProfileError
from edge_sdk.errors import EdgeError

if TYPE_CHECKING:
    from edge_sdk.transport.address import Address, Tls

__all__ = ["Check", "DoctorTarget", "Skipped", "check_of", "render"]

P = ParamSpec("P")
Status: TypeAlias = Literal["PASS", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ``PASS``, ``problem``, or ``skipped`` when it does not apply here.
        detail: What was found.
        fix: What to do; empty unless it is a problem.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorTarget:
    """The settings and files that the doctor checks.

    Attributes:
        broker_url: ``mqtt://host:port`` or ``mqtts://``; None skips.
        tls: For an encrypted link.
        address: The broker with its secrets and proxy; of the URL alone if None.
        identity: The folder that `flash-edge enroll` wrote; None for none.
        state: The agent's state folder.
        task: The task's reference; None for none.
        data: Folder of the private examples.
        beside: Folder of the settings, where the task may lie.
        profile: The profile's reference; None for none.
        engine: The engine that the settings ask for; None without settings.
        settings: The device's TOML file; None without one.
        root: Where ``proc`` and ``sys`` are.
        today: The date; the clock's if not given.
    """

    broker_url: str | None = None
    tls: Tls | None = None
    identity: Path | None = None
    state: Path = Path()
    task: str | None = None
    data: Path = Path()
    beside: Path = Path()
    profile: str | None = None
    engine: str | None = None
    settings: Path | None = None
    root: Path = Path("/")
    today: dt.date | None = None
    address: Address | None = None


class Skipped(str):
    """The reason why a thing was not looked at."""

    __slots__ = ()


def check_of(name: str) -> Callable[[Callable[P, str]], Callable[P, Check]]:
    """Decorator that makes a check of a function.

    What the function returns is the detail of what is fine, or `Skipped`; an error
    that it raises is the problem, and the error's remedy the fix.

    Args:
        name: What is looked at, in a word or two.
    """

    def made(look: Callable[P, str]) -> Callable[P, Check]:
        @functools.wraps(look)
        def check(*given: P.args, **named: P.kwargs) -> Check:
            try:
                found = look(*given, **named)
            except (EdgeError, ProfileError) as error:
                return Check(name, "problem", str(error), error.help)
            skipped = isinstance(found, Skipped)
            return Check(name, "skipped" if skipped else "PASS", str(found))

        return check

    return made


def render(checks: Sequence[Check]) -> str:
    """One line per check, and a second with the fix under each problem.

    Example:
        >>> print(render([Check("disk", "problem", "3 MiB free", "Free some space.")]))
        problem  disk: 3 MiB free
                 fix: Free some space.
    """
    lines = []
    for check in checks:
        lines.append(f"{check.status:<8} {check.name}: {check.detail}")
        if check.fix:
            lines.append(f"{'':<8} fix: {check.fix}")
    return "\n".join(lines)
