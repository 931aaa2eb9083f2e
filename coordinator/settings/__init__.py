"""A run's settings: types, what they have to agree on, and how a run is extended."""

from coordinator.settings.checks import check_algorithm_fits
from coordinator.settings.run import (
    DEVICES,
    CodecSettings,
    GateSettings,
    RunSettings,
    WarmUpSettings,
    load_run,
    rounds_kept,
)
from coordinator.settings.statistics import DriftSettings, StatisticsSettings
from coordinator.settings.training import TrainingSettings

__all__ = [
    "DEVICES",
    "CodecSettings",
    "DriftSettings",
    "GateSettings",
    "RunSettings",
    "StatisticsSettings",
    "TrainingSettings",
    "WarmUpSettings",
    "check_algorithm_fits",
    "load_run",
    "rounds_kept",
]
