"""A measured profile on disk: dated, and whole or not there at all."""

from __future__ import annotations

from pathlib import Path

from device_profiles import DeviceProfile
from device_profiles.toml_text import to_toml
from edge_sdk.checkpoint import replace_file

__all__ = ["default_path", "write_profile"]


def write_profile(path: Path, profile: DeviceProfile) -> None:
    """Writes the TOML; a reboot on the way leaves the old file as it was.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    head = (
        f"# Measured by `flash-edge profile` on {profile.provenance.on.isoformat()}.\n"
        "# Set what you lend of it under [caps]; see docs/devices.md.\n"
    )
    replace_file(path, (head + to_toml(profile)).encode())


def default_path(state: Path) -> Path:
    """Path at which the agent of a state folder looks for its profile."""
    return state / "profile.toml"
