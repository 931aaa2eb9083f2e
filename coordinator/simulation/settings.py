"""Settings of a simulation: a preset, a TOML file and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.privacy import PrivacySettings
from coordinator.densities import DEFAULT_ROUND_BUDGET_S
from coordinator.settings import (
    CodecSettings,
    GateSettings,
    RunSettings,
    StatisticsSettings,
    TrainingSettings,
    WarmUpSettings,
    check_algorithm_fits,
)
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import check_density
from edge_sdk.tasks.parts.adapters import Adapters

__all__ = [
    "AskedEngine",
    "FleetGroup",
    "SimulationSettings",
    "check_simulation",
    "run_settings",
    "todays_name",
]

Positive = Annotated[int, Meta(ge=1)]
AskedEngine: TypeAlias = Literal["auto", "program", "torch", "sparse", "masked"]
EngineName: TypeAlias = Literal["auto", "program", "torch"]
_TODAYS: dict[AskedEngine, EngineName] = {"sparse": "program", "masked": "torch"}


class FleetGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the fleet.

    Attributes:
        share: Its share of the devices; all shares sum to 1.
        density: What its devices train at; 0 takes what its board affords.
        board: A board of the catalogue, or the path of a profile; empty for devices
            that take no time and afford everything.
        bytes_per_round: What its owners lend of their links; 0 for no limit.
    """

    share: Annotated[float, Meta(gt=0, le=1)]
    density: Annotated[float, Meta(ge=0, le=1)] = 0.0
    board: str = ""
    bytes_per_round: Annotated[int, Meta(ge=0)] = 0


class SimulationSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One simulated run; `training`, `warm_up` and `codec` are those of a real one.

    Attributes:
        task: A shipped task or ``package.module:object``.
        data: A shipped data set, cut into `devices` parts; empty with `folder`.
        folder: A folder with one subfolder per device and one named ``evaluation``,
            read as real devices read theirs.
        devices: Parts to cut `data` into.
        alpha: Dirichlet concentration of the parts; ``inf`` for all alike.
        densities: The run's densities.
        rounds: Rounds to complete after the warm-up.
        algorithm: One of the table in `coordinator.algorithms`, or
            ``package.module:object``, found as a task is.
        cohort: Updates wanted per round.
        seed: Of partition, masks, weights, cohorts and example orders. Two algorithms
            at one seed have the same partition and the same initial weights.
        evaluate_every: Score the model after every so many rounds, and after the last.
        engine: ``program`` is the model's training program, as on a device, compiled
            once per run; ``torch`` computes dense under masks, on a GPU where there is
            one; ``auto`` takes torch where there is a GPU, else the program where the
            model has one. There is no race: its outcome would depend on the machine's
            mood, and equal settings must give equal bytes.
            ``sparse`` and ``masked`` are what version 0.1.0 called the two.
        round_budget_s: Seconds a device's part of a round may take, where boards are
            named.
        jitter: Standard deviation of the logarithm of a device's seconds.
        dropout: Share of the devices asked that vanish in a round.
        fleet: Its parts; none for equal devices that take no time.
        partitions: Whether the examples in `folder` are ``train.npz`` and ``eval.npz``,
            to be read so in place of the task's own functions.
        gate: How much one device may count, as in a federation.
        aggregate: ``mean`` takes the algorithm's own; ``trimmed-mean`` leaves out each
            weight's largest and smallest changes and counts devices alike.
        personal: Patterns of what each device trains for itself and never sends.
        frozen: Patterns of what nobody trains.
        start: File of a state dict that training begins at.
        privacy: Noise on each round's sum, and what all rounds may tell; the noise is
            drawn from `seed`, so that equal settings give equal bytes.
        holdout: Share of its examples that a device does not train on, to test models
            on; 0 for none.
        statistics: Of the devices' examples, before the first round.
        adapters: Low-rank adapters, which train and travel in place of the layers they
            are on; left out takes the task's own.
    """

    task: str
    densities: Annotated[list[float], Meta(min_length=1, max_length=16)]
    data: str = ""
    folder: str = ""
    devices: Positive = 100
    alpha: Annotated[float, Meta(gt=0)] = 1.0
    rounds: Positive = 100
    algorithm: str = "flash-edge"
    cohort: Positive = 10
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] = 1
    evaluate_every: Positive = 1
    engine: AskedEngine = "auto"
    round_budget_s: Annotated[float, Meta(gt=0)] = DEFAULT_ROUND_BUDGET_S
    jitter: Annotated[float, Meta(ge=0, le=2)] = 0.0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    fleet: list[FleetGroup] = []
    training: TrainingSettings = TrainingSettings()
    warm_up: WarmUpSettings = WarmUpSettings(devices=10)
    codec: CodecSettings = CodecSettings()
    partitions: bool = False
    gate: GateSettings = GateSettings()
    aggregate: Literal["mean", "trimmed-mean"] = "mean"
    personal: list[str] = []
    frozen: list[str] = []
    start: str = ""
    privacy: PrivacySettings = PrivacySettings()
    holdout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    statistics: StatisticsSettings = StatisticsSettings()
    adapters: Adapters | None = None


def todays_name(asked: AskedEngine) -> EngineName:
    """An engine's name; those of version 0.1.0 are known."""
    return _TODAYS.get(asked, asked)  # type: ignore[arg-type]


def check_simulation(
    settings: SimulationSettings, algorithm: Algorithm | None = None
) -> SimulationSettings:
    """The settings themselves, if they go together.

    Args:
        settings: The run's.
        algorithm: The run's, where it is no name that can be loaded.

    Raises:
        SettingsError: Names the key and what was expected.
        DensityError: For a density outside (0, 1].
    """
    for density in settings.densities:
        check_density(density, what="key densities: density")
    if settings.privacy.secure_aggregation:
        raise SettingsError(
            "key privacy.secure_aggregation: a simulation has all devices in one "
            "process, and nobody to hide updates from",
            remedy="Leave it out here; a federation's run.toml takes it.",
        )
    check_algorithm_fits(algorithm or load_algorithm(settings.algorithm), settings)
    if bool(settings.data) == bool(settings.folder):
        raise SettingsError("name one of data (a shipped data set) and folder (yours)")
    if settings.partitions and not settings.folder:
        raise SettingsError("key partitions: it says how to read folder; name one")
    shares = sum(group.share for group in settings.fleet)
    if settings.fleet and abs(shares - 1) > 1e-6:
        raise SettingsError(f"key fleet: the shares sum to {shares:g}, not to 1")
    for group in settings.fleet:
        if group.density and group.density not in settings.densities:
            raise SettingsError(
                f"key fleet: density {group.density:g} is none of the run's densities"
            )
    return settings


def run_settings(settings: SimulationSettings) -> RunSettings:
    """The same run as a coordinator's settings, from which orders are made."""
    return RunSettings(
        federation="simulation",
        task=settings.task,
        evaluation=Path(),
        densities=settings.densities,
        rounds=settings.rounds,
        algorithm=settings.algorithm,
        cohort=settings.cohort,
        round_budget_s=settings.round_budget_s,
        seed=settings.seed,
        training=settings.training,
        warm_up=settings.warm_up,
        codec=settings.codec,
        gate=settings.gate,
        aggregate=settings.aggregate,
        personal=settings.personal,
        frozen=settings.frozen,
        start=Path(settings.start) if settings.start else None,
        privacy=settings.privacy,
        holdout=settings.holdout,
        statistics=settings.statistics,
        adapters=settings.adapters,
    )
