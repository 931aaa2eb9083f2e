"""A run's settings from TOML, one frozen type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from coordinator.algorithms.base import Algorithm, RoundContext, keep_masks
from coordinator.algorithms.load import load_algorithm
from coordinator.densities import DEFAULT_ROUND_BUDGET_S
from coordinator.page_access import parse_page
from edge_sdk.errors import SettingsError
from edge_sdk.settings import Name, load_settings
from edge_sdk.sparse import check_density
from edge_sdk.wire.rules import Controlled

__all__ = [
    "CodecSettings",
    "GateSettings",
    "RunSettings",
    "TrainingSettings",
    "WarmUpSettings",
    "check_algorithm_fits",
    "load_run",
]

Positive = Annotated[int, Meta(ge=1)]


class TrainingSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Local training in every round.

    The learning rate falls as ``rate * (rate_end / rate) ** (t / T)`` over the T rounds
    (FLASH, arXiv:2208.13092, section 4, with the sign put right).

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

    def rate_at(self, round_no: int, rounds: int) -> float:
        """Learning rate of round 1, 2, ...; the warm-up has that of round 1."""
        fallen = max(round_no - 1 - self.lag, 0)
        share = fallen / max((self.horizon or rounds) - 1, 1)
        return float(self.rate * (self.rate_end / self.rate) ** share)


class WarmUpSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The sensitivity warm-up, for algorithms that ask for one.

    Attributes:
        devices: Devices that take part.
        epochs: Local epochs; 0 takes the algorithm's own.
        max_steps: Most steps over all epochs; 0 for whole epochs.
    """

    devices: Positive = 3
    epochs: Annotated[int, Meta(ge=0)] = 0
    max_steps: Annotated[int, Meta(ge=0)] = 0


class CodecSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Codecs of values; a device that does not know one gets a more exact one.

    Attributes:
        up: Of the updates.
        down: Of the models.
        zstd: Whether to compress where both sides can and it makes things smaller.
    """

    up: Literal["fp32", "fp16", "int8", "int4"] = "int8"
    down: Literal["fp32", "fp16", "int8", "int4"] = "fp16"
    zstd: bool = True


class GateSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Bounds on what one device contributes to a round.

    Attributes:
        clip: An update's norm may be so many times the median of this round's and the
            last three rounds'; what is longer is scaled down. 0 for no bound.
        weight: A device may weigh so many times the median of its round; 0: no bound.
        influence: Its weight times its norm may be so many times the median of its
            round; what passes that is taken from its weight. At 1 an honest majority
            decides (docs/adr/0044-one-bound-on-a-devices-influence.md); 0: no bound.
        trim: With ``aggregate = "trimmed-mean"``, the share of a weight's changes left
            out at either end.
    """

    clip: Annotated[float, Meta(ge=0)] = 5.0
    weight: Annotated[float, Meta(ge=0)] = 10.0
    trim: Annotated[float, Meta(ge=0, lt=0.5)] = 0.1
    influence: Annotated[float, Meta(ge=0)] = 1.0


class RunSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One federation's run.

    Attributes:
        federation: Its name; devices use the same.
        task: A shipped task or ``package.module:object``.
        evaluation: Folder with the coordinator's evaluation examples.
        densities: The densities a device may get, each in (0, 1].
        rounds: Rounds to complete after the warm-up.
        algorithm: One of the table in `coordinator.algorithms`, or
            ``package.module:object``, found as a task is.
        wait_for: Devices to wait for before the first round; one that pauses has come.
        cohort: Updates wanted per round; 0 wants one of every device present.
        round_budget_s: Seconds a device's part of a round should take at most; the
            one knob behind densities and deadlines.
        seed: Seed of masks, initial weights, cohorts and example orders.
        broker: ``mqtt[s]://host:port[,host:port...]``, or ``ws[s]://host:port/path``
            for MQTT over WebSocket; empty starts one.
        broker_ca: PEM of whom to believe as a broker of yours with ``mqtts://``; empty
            for the system's authorities.
        broker_cert: Our certificate for such a broker.
        broker_key: Its key.
        address: Where devices reach this machine.
        port: Port of a broker we start; 0 takes a free one.
        page: ``host:port`` of the web page; empty serves none.
        enroll_port: Port of the enrolment listener; 0 takes a free one and keeps it.
        certificate_days: How long a device's certificate lasts; it is renewed in time.
        insecure: Plain MQTT without identities, for one machine only.
        training: Local training.
        warm_up: The sensitivity warm-up.
        codec: How values travel.
        gate: How much one device may count.
        aggregate: ``mean`` takes the algorithm's own; ``trimmed-mean`` leaves out each
            weight's largest and smallest changes and counts devices alike.
        broker_profile: Limits of a known broker: ``mosquitto``, ``aws-iot``,
            ``event-grid``, ``emqx``, ``hivemq`` or ``cloudflare``; by its host name if
            empty.
        broker_user: User to connect to it as, unless the URL names one.
        broker_password_file: File with the password alone; the environment's
            FLASH_EDGE_BROKER_PASSWORD if not given.
        proxy: ``http://[user:password@]host:port`` or ``socks5://`` on the way to it,
            ``none`` for a direct connection; the environment's if empty.
        personal: Patterns of ``state_dict`` names, or names of modules: what each
            device trains for itself and never sends. Empty takes the task's own.
        frozen: Patterns likewise: what nobody trains, sent once.
        start: File of a state dict that training begins at; empty takes the task's own.
    """

    federation: Name
    task: str
    evaluation: Path
    densities: Annotated[list[float], Meta(min_length=1, max_length=16)]
    rounds: Positive
    algorithm: str = "flash-edge"
    wait_for: Positive = 2
    cohort: Annotated[int, Meta(ge=0)] = 0
    round_budget_s: Annotated[float, Meta(gt=0)] = DEFAULT_ROUND_BUDGET_S
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] = 1
    broker: str = ""
    broker_ca: Path | None = None
    broker_cert: Path | None = None
    broker_key: Path | None = None
    address: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    page: str = ""
    enroll_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    certificate_days: Annotated[int, Meta(ge=1, le=3650)] = 365
    insecure: bool = False
    training: TrainingSettings = TrainingSettings()
    warm_up: WarmUpSettings = WarmUpSettings()
    codec: CodecSettings = CodecSettings()
    gate: GateSettings = GateSettings()
    aggregate: Literal["mean", "trimmed-mean"] = "mean"
    broker_profile: str = ""
    broker_user: str = ""
    broker_password_file: Path | None = None
    proxy: str = ""
    personal: list[str] = []
    frozen: list[str] = []
    start: Path | None = None


class FitSettings(Protocol):
    """Settings on which an algorithm and the rest of a run have to agree."""

    @property
    def training(self) -> TrainingSettings:
        """Local training."""
        ...

    @property
    def aggregate(self) -> Literal["mean", "trimmed-mean"]:
        """Rule that makes a model of the updates."""
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
    if settings.aggregate == "trimmed-mean" and algorithm.init_state is not None:
        raise SettingsError(
            f"{where}key aggregate: a trimmed mean would take the place of the server "
            f"step of {algorithm.name}",
            remedy='Take aggregate = "mean", or an algorithm that keeps no state.',
        )
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


def load_run(path: Path) -> RunSettings:
    """The run's settings, checked beyond their types.

    Raises:
        SettingsError: As `load_settings`, and for an algorithm that is unknown, cannot
            be imported, or has a wrong slot.
        DensityError: For a density outside (0, 1].
    """
    settings = load_settings(path, RunSettings)
    for density in settings.densities:
        check_density(density, what=f"{path}: key densities: density")
    try:
        algorithm = load_algorithm(settings.algorithm, beside=path.parent)
    except SettingsError as error:
        raise SettingsError(
            f"{path}: key algorithm: {error}", remedy=error.help
        ) from error
    check_algorithm_fits(algorithm, settings, where=f"{path}: ")
    if settings.page:
        parse_page(settings.page)
    return settings
