"""Settings about the devices' examples: what is asked of them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["DriftSettings", "StatisticsSettings"]


class StatisticsSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Statistics of the devices' examples, asked for before the first round.

    A task that fills buffers of its model with them has them in any case.

    Attributes:
        collect: Whether they are asked for where no buffer takes them.
        bins: Bins of a histogram of all prepared inputs, from `low` to `high`; 0 for
            none.
        low: Its lower end.
        high: Its upper end.
        wait_s: Seconds after which devices that have not answered are left out.
    """

    collect: bool = False
    bins: Annotated[int, Meta(ge=0, le=1024)] = 0
    low: float = 0.0
    high: float = 1.0
    wait_s: Annotated[float, Meta(gt=0)] = 600.0


class DriftSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Reports of devices on their examples, beside their tests of models.

    Attributes:
        report: Whether a device tells, with each test, its class counts and the mean
            and deviation of its examples.
        band: How far they may be from its first ones before that is named: a share of
            the labels, or a mean's way in deviations.
    """

    report: bool = False
    band: Annotated[float, Meta(gt=0)] = 0.2
