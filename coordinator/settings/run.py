"""A run's settings from TOML, one frozen type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.privacy import PrivacySettings, check_private
from coordinator.densities import DEFAULT_ROUND_BUDGET_S
from coordinator.page_access import parse_page
from coordinator.settings.checks import check_algorithm_fits, check_drift, check_endless
from coordinator.settings.extension import extended, extended_rounds
from coordinator.settings.statistics import DriftSettings, StatisticsSettings
from coordinator.settings.training import TrainingSettings
from edge_sdk.errors import SettingsError
from edge_sdk.settings import Name, load_settings
from edge_sdk.sparse import check_density
from edge_sdk.tasks.parts.adapters import Adapters

__all__ = [
    "DEVICES",
    "BestSettings",
    "CodecSettings",
    "GateSettings",
    "RunSettings",
    "WarmUpSettings",
    "load_run",
    "rounds_kept",
]

HOLDOUT = 0.2
DEVICES = "devices"  # in place of a folder: they test models
Positive = Annotated[int, Meta(ge=1)]
KEPT_WITHOUT_END = 200  # rounds of a run without a last one


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


class BestSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The best model: when one is better, what is deployed, when a run ends early.

    Attributes:
        gain: By how much the primary metric has to improve for a model to be better.
        patience: Scored rounds without a better model at any density that end the run;
            0 for none.
        deploy: Whether ``models/density-*`` is the ``last`` model or the ``best``; both
            lie beside it.
    """

    gain: Annotated[float, Meta(ge=0)] = 0.0
    patience: Annotated[int, Meta(ge=0)] = 0
    deploy: Literal["last", "best"] = "last"


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
        evaluation: Folder with the coordinator's evaluation examples; in the file also
            ``"devices"`` for `holdout` of 0.2, or a list of both.
        densities: The densities a device may get, each in (0, 1].
        rounds: Rounds to complete after the warm-up; 0 goes on until it is stopped.
        algorithm: One of the table in `coordinator.algorithms`, or
            ``package.module:object``, found as a task is.
        wait_for: Devices to wait for before the first round; one that pauses has come.
        cohort: Updates wanted per round; 0 wants one of every device present.
        round_budget_s: Seconds a device's part of a round should take at most; the
            one knob behind densities and deadlines.
        seed: Seed of masks, initial weights, cohorts and example orders.
        broker: ``mqtt[s]://host:port[,host:port...]``, ``ws[s]://host:port/path`` for
            MQTT over WebSocket, or a list of addresses; empty starts one.
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
        holdout: Share of its examples that a device does not train on, to test models
            on; 0 for none.
        best: The best model, and the end of a run without a better one.
        statistics: Of the devices' examples, before the first round.
        drift: Reports on them, beside tests.
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
        adapters: Low-rank adapters, which train and travel in place of the layers they
            are on; left out takes the task's own.
        keep_rounds: Rounds that the ledger keeps one by one; older ones are folded into
            sums. 0 keeps all, and 200 of a run without a last round.
        selection: Who is in a cohort smaller than the fleet: ``random``, those asked
            longest ago (``round-robin``), or counted longest ago (``fair``).
        privacy: Noise on each round's sum, and what all rounds may tell.
        keep_updates: Whether the updates of all rounds stay on the disk, so that a
            proof can make every model again of them; else those of the last ones.
    """

    federation: Name
    task: str
    evaluation: Path | None
    densities: Annotated[list[float], Meta(min_length=1, max_length=16)]
    rounds: Annotated[int, Meta(ge=0)]
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
    keep_rounds: Annotated[int, Meta(ge=0)] = 0
    selection: Literal["random", "round-robin", "fair"] = "random"
    privacy: PrivacySettings = PrivacySettings()
    holdout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    best: BestSettings = BestSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    adapters: Adapters | None = None
    keep_updates: bool = False
    drift: DriftSettings = DriftSettings()

    @property
    def bounds(self) -> GateSettings:
        """The bounds on one device; none that look at others in a private run."""
        if self.privacy.on:
            return GateSettings(clip=0, weight=0, influence=0, trim=self.gate.trim)
        return self.gate

    @staticmethod
    def rewritten(raw: dict[str, Any]) -> dict[str, Any]:
        """The keys of a file with `evaluation` as a folder or None."""
        return where_evaluated(raw)


def where_evaluated(raw: dict[str, Any]) -> dict[str, Any]:
    """Settings whose `evaluation` is a folder or None; ``devices`` becomes `holdout`.

    Example:
        >>> where_evaluated({"evaluation": ["devices", "folder:eval"]})
        {'holdout': 0.2, 'evaluation': 'eval'}
    """
    given = raw.get("evaluation")
    places = given if isinstance(given, list) else [given]
    folders = [place for place in places if place != DEVICES]
    if len(folders) > 1 or not all(isinstance(place, str) for place in places):
        return raw  # refused with its type
    folder = str(folders[0]).removeprefix("folder:") if folders else None
    own = {"holdout": HOLDOUT} if len(folders) < len(places) else {}
    return {**own, **raw, "evaluation": folder}


def rounds_kept(settings: RunSettings) -> int:
    """Rounds that a ledger keeps one by one; 0 for all of them."""
    return settings.keep_rounds or (KEPT_WITHOUT_END if not settings.rounds else 0)


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
    check_drift(algorithm, settings, where=f"{path}: ")
    if settings.page:
        parse_page(settings.page)
    check_endless(algorithm, settings, where=f"{path}: ")
    rounds, training = extended(
        settings.rounds, settings.training, extended_rounds(path.parent)
    )
    settings = msgspec.structs.replace(settings, rounds=rounds, training=training)
    check_private(algorithm, settings, where=f"{path}, extended: ")
    _check_private_run(settings, path)
    return settings


def _check_private_run(settings: RunSettings, path: Path) -> None:
    privacy = settings.privacy
    if privacy.on and settings.holdout:  # and no reports, then
        raise SettingsError(
            f"{path}: key holdout: tests on devices are told one by one, without noise "
            "or masks, and would tell what [privacy] is to hide",
            remedy="Evaluate on a folder alone, or leave [privacy] out.",
        )
    least = privacy.min_devices
    if privacy.secure_aggregation and not settings.cohort and settings.wait_for < least:
        raise SettingsError(
            f"{path}: key wait_for: a round of {settings.wait_for} devices is smaller "
            f"than a sum with privacy.secure_aggregation has to be ({least})",
            remedy=f"Set wait_for to {least} or more.",
        )
