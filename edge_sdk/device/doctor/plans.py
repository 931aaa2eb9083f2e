"""Memory that a training step of the device's own task takes, in words."""

from __future__ import annotations

from pathlib import Path

from device_profiles.memory import MIB, RUNTIME_MIB, RUNTIME_WITHOUT_TORCH_MIB
from edge_sdk.device.limits.memory import ram_cap
from edge_sdk.device.limits.processor import threads_for
from edge_sdk.device.probe.board import read_board
from edge_sdk.device.probe.ram import ceilings
from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling import MemoryCeiling
from edge_sdk.settings import DeviceSettings, load_settings, profile_of
from edge_sdk.tasks.task import load_task
from edge_sdk.tasks.without_torch.halves import torch_is_here
from edge_sdk.training.program_engine.kept import stated_plans

__all__ = ["STATED_AT", "plans_of", "told_plans"]

STATED_AT = (0.05, 0.2)  # densities


def told_plans(settings: Path) -> str:
    """The plans at two densities in one line; empty before a program has come.

    Args:
        settings: The device's TOML file.

    Raises:
        EngineError: If no density fits under the ceiling.
        EdgeError: If the settings, the task or the program cannot be read.
    """
    own = load_settings(settings, DeviceSettings)
    found = plans_of(own, settings.parent, STATED_AT)
    told = "; ".join(f"density {at:g}: {plan}" for at, plan in found.items())
    if found and all("at the least" in plan for plan in found.values()):
        raise EngineError(told, remedy="Raise caps.ram_mib, or take a smaller model.")
    return told


def plans_of(
    own: DeviceSettings, beside: Path, densities: tuple[float, ...]
) -> dict[float, str]:
    """Density -> the plan of a step in words; empty before a program has come.

    Raises:
        EdgeError: If the task or the program cannot be read.
    """
    caps = profile_of(own.profile, beside).caps
    return stated_plans(
        own.state,
        load_task(own.task, beside=beside),
        densities,
        _ceiling(own.profile, beside),
        ghost_norm=own.ghost_norm,
        half=own.activations == "bf16",
        threads=_threads(own.threads, caps.cpu_share),
    )


def _threads(wanted: int, cpu_share: float) -> int:
    """Threads of a step, as the agent bounds them: all cores where none are wanted."""
    lent = threads_for(read_board().cores, cpu_share)
    return min(wanted or lent, lent) if cpu_share < 1.0 else wanted or lent


def _ceiling(profile: str, beside: Path) -> MemoryCeiling | None:
    """The bound that the agent will be held to, and what it holds before its model."""
    own = profile_of(profile, beside)
    cap = ram_cap(own.caps, ceilings())
    if cap is None:
        return None
    usual = RUNTIME_MIB if torch_is_here() else RUNTIME_WITHOUT_TORCH_MIB
    held = usual if own.runtime_mib is None else own.runtime_mib
    return MemoryCeiling(cap * MIB, int(held * MIB))
