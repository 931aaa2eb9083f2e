"""The agent on a board for good: its systemd unit, and wheels without internet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sdk.errors import SettingsError
from edge_sdk.settings import DeviceSettings, load_settings, profile_of
from edge_sdk.terminal import Json, tell
from edge_sdk.terminal.utf8 import echo

if TYPE_CHECKING:
    from edge_sdk.device.service import Service

__all__ = ["bundle", "install", "show"]

ServiceFile = Annotated[Path, typer.Argument(help="The device's TOML file.")]


def install(settings: ServiceFile = Path("device.toml"), as_json: Json = False) -> None:
    """Write the hardened systemd unit of this device; needs root."""
    from edge_sdk.device.service import install_service  # noqa: PLC0415

    path, commands = install_service(_unit(settings))
    told = f"wrote {path}; start it with: {commands}"
    tell({"unit": str(path), "start": commands}, told, as_json=as_json)


def show(settings: ServiceFile = Path("device.toml")) -> None:
    """Print the unit that `install` would write."""
    from edge_sdk.device.service import unit_text  # noqa: PLC0415

    echo(unit_text(_unit(settings)))


def _unit(settings: Path) -> Service:
    """The unit's facts: the owner's caps become its limits."""
    from edge_sdk.device.probe.board import read_board  # noqa: PLC0415
    from edge_sdk.device.service import this_service  # noqa: PLC0415

    own = load_settings(settings, DeviceSettings)
    caps = profile_of(own.profile, settings.parent).caps
    return this_service(
        settings,
        own.state,
        own.data,
        own.identity,
        models=own.models,
        ram_mib=caps.ram_mib,
        cpu_share=caps.cpu_share,
        cores=read_board().cores,
        gpu=Path("/etc/nv_tegra_release").exists(),
        work=_work_of(own.task, settings.parent),
    )


def _work_of(task: str, folder: Path) -> Path | None:
    """The current folder, where `run` from here finds the task only there."""
    here, name = Path.cwd(), task.partition(":")[0].partition(".")[0]
    found = [
        (at / name).is_dir() or (at / f"{name}.py").is_file() for at in (folder, here)
    ]
    return here if found == [False, True] else None


def bundle(
    folder: Annotated[Path, typer.Argument(help="Folder to collect the wheels in.")],
    python: Annotated[str, typer.Option(help="The device's Python.")] = "3.11",
    platform: Annotated[str, typer.Option(help="aarch64 or x86_64.")] = "aarch64",
    wheel: Annotated[
        Path | None, typer.Option(help="flash-edge's own wheel, if not on an index.")
    ] = None,
    torch: Annotated[
        bool,
        typer.Option(help="With torch, for tasks of one module (460 MB installed)."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Collect every wheel that a device without internet needs."""
    from edge_sdk.device.offline_wheels import make_bundle  # noqa: PLC0415

    if platform not in ("aarch64", "x86_64"):
        raise SettingsError(
            f"--platform {platform!r} is neither aarch64 nor x86_64",
            remedy="32-bit boards have no wheels of numpy or torch.",
        )
    made = make_bundle(
        folder,
        platform="aarch64" if platform == "aarch64" else "x86_64",
        python=python,
        package="flash-edge[device]" if torch else "flash-edge",
        own_wheel=wheel,
    )
    told = (
        f"{len(made.wheels)} wheels, {made.size / 1e6:.0f} MB, for {made.platform} "
        f"with Python {made.python} in {made.folder}; on the device: sh install.sh"
    )
    facts = {
        "folder": str(made.folder),
        "platform": made.platform,
        "python": made.python,
        "bytes": made.size,
        "wheels": made.wheels,
    }
    tell(facts, told, as_json=as_json)
