"""Checks that an algorithm and the rest of a run agree."""

from __future__ import annotations

from typing import Protocol

from coordinator.algorithms.base import Algorithm, RoundContext, keep_masks
from coordinator.algorithms.privacy import PrivateRun, check_private
from coordinator.settings.statistics import DriftSettings
from coordinator.settings.training import TrainingSettings
from edge_sdk.errors import SettingsError
from edge_sdk.wire.rules import Controlled, Frozen, Nested, Proximal, Sandwich

__all__ = ["check_algorithm_fits", "check_drift", "check_endless"]

_FROZEN = (Frozen, Nested, Proximal, Sandwich)  # rules that train the kept values


class EndlessSettings(Protocol):
    """Settings of a run that may have no last round."""

    @property
    def training(self) -> TrainingSettings:
        """Local training."""
        ...

    @property
    def rounds(self) -> int:
        """Rounds to complete; 0 for no last one."""
        ...


class ReportSettings(Protocol):
    """Settings on which it depends whether devices report drift."""

    @property
    def drift(self) -> DriftSettings:
        """Reports beside tests."""
        ...

    @property
    def holdout(self) -> float:
        """Share of examples for tests on devices."""
        ...


class FitSettings(PrivateRun, Protocol):
    """Settings on which an algorithm and the rest of a run have to agree."""

    @property
    def training(self) -> TrainingSettings:
        """Local training."""
        ...


def check_algorithm_fits(
    algorithm: Algorithm, settings: FitSettings, *, where: str = ""
) -> None:
    """Refuses what an algorithm's masks or its server step do not go with.

    Under a power a weight that enters a moved mask at 0 would stay there.

    Args:
        algorithm: The run's.
        settings: The run's, or a simulation's.
        where: What the message begins with.

    Raises:
        SettingsError: If the mean is trimmed and the algorithm moves its masks or keeps
            a state; or the power is not 1 and it moves its masks or corrects gradients.
    """
    check_private(algorithm, settings, where=where)
    if settings.aggregate == "trimmed-mean" and algorithm.init_state is not None:
        raise SettingsError(
            f"{where}key aggregate: a trimmed mean would take the place of the server "
            f"step of {algorithm.name}",
            remedy='Take aggregate = "mean", or an algorithm that keeps no state.',
        )
    _check_recalibration(algorithm, settings, where)
    power = settings.training.power
    if power != 1 and isinstance(algorithm.local(RoundContext(1, 1, 1.0)), Controlled):
        raise SettingsError(
            f"{where}key training.power: {algorithm.name} corrects gradients of the "
            "weights themselves, not of a power of them",
            remedy="Take power = 1, or another algorithm.",
        )
    if algorithm.revise is keep_masks and algorithm.redraw is None:
        return
    if settings.aggregate == "trimmed-mean":
        raise SettingsError(
            f"{where}key aggregate: a trimmed mean needs masks that stay; "
            f"{algorithm.name} moves them",
            remedy='Take aggregate = "mean", or an algorithm with frozen masks.',
        )
    if power != 1:
        raise SettingsError(
            f"{where}key training.power: {algorithm.name} moves its masks, and a "
            "weight that enters a mask at 0 does not move under a power",
            remedy="Take power = 1, or an algorithm with frozen masks.",
        )


def _check_recalibration(
    algorithm: Algorithm, settings: FitSettings, where: str
) -> None:
    """Refuses rounds that move no weight where there is no last round, or no other.

    Raises:
        SettingsError: Names the key and the remedy.
    """
    last, rounds = settings.training.recalibrate, settings.rounds
    key = f"{where}key training.recalibrate: "
    if not last:
        return
    if last >= rounds:
        raise SettingsError(
            f"{key}the last {last} of {rounds or 'endless'} rounds move no weight",
            remedy="Set rounds to more than recalibrate, or recalibrate to 0.",
        )
    stays = algorithm.revise is keep_masks and algorithm.redraw is None
    rule = algorithm.local(RoundContext(1, rounds, 1.0))
    if not stays or algorithm.init_state or not isinstance(rule, _FROZEN):
        raise SettingsError(
            f"{key}{algorithm.name} moves its masks, or remembers what would move its "
            "model all the same",
            remedy="Set recalibrate to 0, or take an algorithm with frozen masks.",
        )


def check_endless(
    algorithm: Algorithm, settings: EndlessSettings, *, where: str
) -> None:
    """Refuses a run without a last round whose rate or masks need one.

    Raises:
        SettingsError: Names the key and the remedy.
    """
    training = settings.training
    if settings.rounds or training.horizon:
        return
    if training.schedule == "exponential":
        raise SettingsError(
            f"{where}key rounds: 0 has no last round, and the learning rate falls "
            "until the last round",
            remedy='Set schedule = "constant" or "cosine" under [training], or its '
            "horizon: the rounds until the rate is at rate_end.",
        )
    if training.schedule == "cosine" and not training.period:
        raise SettingsError(
            f"{where}key training.period: a cosine without a last round needs the "
            "rounds of one cycle",
            remedy="Set period = 50 under [training], for example.",
        )
    falls = algorithm.redraw is not None and not algorithm.on_drift
    if algorithm.revise is not keep_masks or falls:
        raise SettingsError(
            f"{where}key rounds: 0 has no last round, and {algorithm.name} moves its "
            "masks less and less until the last round",
            remedy="Set horizon under [training]: the rounds until the masks stay.",
        )


def check_drift(algorithm: Algorithm, settings: ReportSettings, *, where: str) -> None:
    """Refuses an algorithm that goes by drift in a run that hears of none.

    Raises:
        SettingsError: Names the key and the remedy.
    """
    if algorithm.on_drift and not (settings.drift.report and settings.holdout):
        raise SettingsError(
            f"{where}key drift.report: {algorithm.name} draws masks again when the "
            "devices' data have drifted, and no device reports on its data",
            remedy="Set report = true under [drift] and a holdout: reports come with "
            "tests on devices.",
        )
