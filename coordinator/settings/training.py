"""Local training in every round, and the learning rate of each."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = ["TrainingSettings"]

Positive = Annotated[int, Meta(ge=1)]


class TrainingSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Local training in every round.

    By default the learning rate falls as ``rate * (rate_end / rate) ** (t / T)`` over
    the T rounds (FLASH, arXiv:2208.13092, section 4, with the sign put right).

    Attributes:
        epochs: Passes over a device's examples.
        max_steps: Most steps of one round; 0 for whole epochs.
        batch_size: Examples per step; 0 takes the task's own.
        rate: Learning rate of the first round.
        rate_end: Learning rate that the last round reaches.
        momentum: SGD momentum, in rounds. The warm-up has none: its devices train for
            epochs apart, and with momentum end too far apart for a mean.
        weight_decay: L2 penalty on what is kept.
        horizon: Rounds over which the rate falls, T; 0 takes the run's own.
        lag: Rounds that keep the first rate before it falls; the last rate is then
            that of so many rounds before.
        power: Kept values are trained as this power of what SGD moves, so that large
            ones move more and small ones less (power-propagation, Schwarz et al.,
            arXiv:2110.00296); 1 is plain SGD. For masks that stay.
        clip: Longest gradient of a step, by its norm over all that trains; 0 for no
            bound. The warm-up has none.
        schedule: ``exponential`` falls over T rounds; ``constant`` stays at `rate`;
            ``cosine`` falls to `rate_end` in `period` rounds and begins anew.
        period: Rounds of one cosine; 0 takes T.
        hold: Whether an exponential stays at `rate_end` after a `horizon`, rather than
            falling on. A run without a last round, and one that was extended, does.
        recalibrate: Last rounds that move no weight: devices measure the running
            statistics of batch norm anew, of the model as it is. They are among the
            run's rounds, and the rate falls in those before. Where each density has
            statistics of its own, stronger devices go down the densities in these
            rounds: as many rounds as densities let each device measure each network
            that it holds. For masks that stay.
    """

    epochs: Positive = 1
    max_steps: Annotated[int, Meta(ge=0)] = 0
    batch_size: Annotated[int, Meta(ge=0)] = 0
    rate: Annotated[float, Meta(gt=0)] = 0.1
    rate_end: Annotated[float, Meta(gt=0)] = 0.01
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    horizon: Annotated[int, Meta(ge=0)] = 0
    lag: Annotated[int, Meta(ge=0)] = 0
    power: Annotated[float, Meta(ge=1, le=4)] = 1.0
    clip: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Literal["exponential", "constant", "cosine"] = "exponential"
    period: Annotated[int, Meta(ge=0)] = 0
    hold: bool = False
    recalibrate: Annotated[int, Meta(ge=0)] = 0

    def rate_at(self, place: int, rounds: int) -> float:
        """Learning rate of a round; the warm-up has that of the first.

        It is 0 in rounds that recalibrate.

        Args:
            place: The round's among those that give a model: 1, 2, ...; 0 of the
                warm-up. A round that was aborted is made up for at its rate.
            rounds: Of the whole run; 0 where it has no last round.
        """
        fallen = max(place - 1 - self.lag, 0)
        moving = rounds - self.recalibrate
        if self.recalibrate and place > moving:
            return 0.0
        over = max((self.horizon or moving) - 1, 1)
        if self.schedule == "constant":
            return float(self.rate)
        if self.schedule == "cosine":
            share = fallen % self.period / self.period if self.period else fallen / over
            fall = (1 + math.cos(math.pi * min(share, 1.0))) / 2
            return float(self.rate_end + (self.rate - self.rate_end) * fall)
        share = fallen / over
        if self.hold or not rounds or not self.horizon:
            share = min(share, 1.0)
        return float(self.rate * (self.rate_end / self.rate) ** share)
