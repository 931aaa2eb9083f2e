"""Settings of a private run, and why some would not keep its promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from coordinator.algorithms.base import Algorithm, keep_masks
from coordinator.algorithms.evidence import Replay
from coordinator.algorithms.privacy.accountant import (
    epsilon_of,
    noise_for,
    rounds_within,
)
from coordinator.algorithms.privacy.secure import check_secure
from edge_sdk.errors import SettingsError

__all__ = ["PrivacySettings", "PrivateRun", "check_private"]


class PrivacySettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Differential privacy of the model, at the level of devices.

    Attributes:
        noise_multiplier: Deviation of the Gaussian noise on the sum of a round's
            updates, in units of `clip`; 0 for no privacy. The coordinator adds it
            (central); with `secure_aggregation` each device adds a part (distributed).
        clip: Longest update, by its norm; what is longer is scaled down. Where it is
            not set: 1 with noise, no bound under secure aggregation.
        delta: Chance that the bound does not hold.
        epsilon: Most that all rounds may tell about a device; 0 for no bound.
        secure_aggregation: Whether devices mask their updates, so that the coordinator
            learns a round's sum and no update.
        clipping_range: With it, values of an update lie between minus and plus this;
            what is beyond is cut.
        min_devices: With it, updates that a sum has at least.
        num_shares: With it, devices that hold a share of each one's masks, itself among
            them; 0 for as many as a loss of 30 % leaves enough of.
        ring_bits: With it, bits of a value on the wire.
    """

    noise_multiplier: Annotated[float, Meta(ge=0)] = 0.0
    clip: Annotated[float, Meta(gt=0)] | None = None
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    epsilon: Annotated[float, Meta(ge=0)] = 0.0
    secure_aggregation: bool = False
    clipping_range: Annotated[float, Meta(gt=0, le=1e6)] = 0.25
    min_devices: Annotated[int, Meta(ge=2)] = 3
    num_shares: Annotated[int, Meta(ge=0, le=255)] = 0
    ring_bits: Literal[16, 32] = 16

    @property
    def longest(self) -> float:
        """Longest update, by its norm, of a run with noise."""
        return 1.0 if self.clip is None else self.clip

    @property
    def noise(self) -> Literal["", "central", "distributed"]:
        """The noise by who draws it: the coordinator, or each device a part."""
        if not self.noise_multiplier:
            return ""
        return "distributed" if self.secure_aggregation else "central"

    @property
    def distributed(self) -> bool:
        """True if devices draw the noise."""
        return self.noise == "distributed"

    @property
    def on(self) -> bool:
        """True if what single devices send is hidden, in noise or under masks."""
        return bool(self.noise_multiplier) or self.secure_aggregation


class PrivateRun(Protocol):
    """Settings on which privacy and the rest of a run have to agree."""

    @property
    def aggregate(self) -> Literal["mean", "trimmed-mean"]:
        """Rule that makes a model of the updates."""
        ...

    @property
    def densities(self) -> Sequence[float]:
        """Densities that devices train at."""
        ...

    @property
    def privacy(self) -> PrivacySettings:
        """Noise on each round's sum."""
        ...

    @property
    def rounds(self) -> int:
        """Rounds to complete after the warm-up."""
        ...

    @property
    def cohort(self) -> int:
        """Updates wanted per round."""
        ...


def check_private(
    algorithm: Algorithm, settings: PrivateRun, *, where: str = ""
) -> None:
    """Refuses private settings whose promise would not hold, or that go too far.

    Raises:
        SettingsError: If devices' data reach the model other than by the noisy sum, the
            sum has no fixed share, or the rounds tell more than `epsilon`.
    """
    privacy = settings.privacy
    if privacy.secure_aggregation:
        check_secure(
            algorithm,
            aggregate=settings.aggregate,
            densities=settings.densities,
            cohort=settings.cohort,
            least=privacy.min_devices,
            shares=privacy.num_shares,
            bits=privacy.ring_bits,
            noise=(
                privacy.noise_multiplier,
                privacy.longest / privacy.clipping_range,
            ),
            where=where,
        )
    noise, delta = privacy.noise_multiplier, privacy.delta
    if not noise:
        if privacy.epsilon and settings.rounds:
            raise SettingsError(
                f"{where}key privacy.epsilon: a bound needs noise, and "
                "privacy.noise_multiplier is 0",
                remedy="Set privacy.noise_multiplier to "
                f"{noise_for(privacy.epsilon, settings.rounds, delta):g} for "
                f"{settings.rounds} rounds.",
            )
        return
    if not isinstance(algorithm.evidence, Replay | None):
        raise SettingsError(
            f"{where}key privacy: the warm-up of {algorithm.name} tells of the "
            "devices' examples without noise",
            remedy='Take algorithm = "equal-counts", or one without a warm-up such as '
            "flash-edge(epochs=0).",
        )
    moves = algorithm.revise is not keep_masks or algorithm.redraw is not None
    if moves or algorithm.init_state is not None or settings.aggregate != "mean":
        raise SettingsError(
            f"{where}key privacy: noise is added to a mean on masks that stay, without "
            f"a server step; {algorithm.name} with aggregate = {settings.aggregate!r} "
            "is no such thing",
            remedy='Take algorithm = "equal-counts" and aggregate = "mean".',
        )
    if not settings.cohort:
        raise SettingsError(
            f"{where}key cohort: the noise is shared out over a number of devices that "
            "is known before; 0 takes all that are there",
            remedy="Set cohort to the updates that a round wants.",
        )
    if not settings.rounds:
        raise SettingsError(
            f"{where}key rounds: what rounds without a last one tell has no bound",
            remedy="Set rounds to a number.",
        )
    found = epsilon_of(noise, settings.rounds, delta)
    if privacy.epsilon and found > privacy.epsilon:
        fit = rounds_within(privacy.epsilon, noise, delta)
        least = noise_for(privacy.epsilon, settings.rounds, delta)
        raise SettingsError(
            f"{where}key privacy.epsilon: {settings.rounds} rounds come to epsilon "
            f"{found:.3g} at delta {delta:g}; {privacy.epsilon:g} are allowed",
            remedy=f"Take {fit} rounds, or noise_multiplier = {least:g}.",
        )
