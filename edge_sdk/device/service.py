"""The systemd unit of the agent: hardened, capped, restarted."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.child_process import beside, output_of
from edge_sdk.errors import SettingsError
from edge_sdk.private_files import make_private
from edge_sdk.terminal import LASTING

__all__ = ["Service", "check_unit", "install_service", "this_service", "unit_text"]

UNIT_FOLDER = Path("/etc/systemd/system")
# The agent answers a stop within a training step; a large model on a small board takes
# several seconds for one.
STOP_S = 45
# torch's mapped libraries; the kernel can drop most of them, but not while they run.
MARGIN_MIB = 128


@dataclass(frozen=True, kw_only=True)
class Service:
    """Values that the systemd unit is made from; every path is absolute.

    Attributes:
        settings: The device's TOML file.
        state: Folder of the journal, where the agent may write.
        data: Folder of the private examples: it may read it.
        program: The ``flash-edge`` command.
        user: Who it runs as.
        identity: Folder of its keys: the agent renews them; None without any.
        models: Folder of the slots that delivered models go into; None without.
        ram_mib: Hard cap; None leaves the board's own.
        cpu_share: Share of all processors' time, (0, 1].
        cores: Processor cores, to express the share.
        work: Folder that it runs in, where a task may lie; None for its state's.
        gpu: Whether it needs device nodes, as torch on a Jetson does.
    """

    settings: Path
    state: Path
    data: Path
    program: Path
    user: str
    identity: Path | None = None
    models: Path | None = None
    ram_mib: int | None = None
    cpu_share: float = 1.0
    cores: int = 1
    gpu: bool = False
    work: Path | None = None


def unit_text(service: Service) -> str:
    """The unit file.

    Raises:
        SettingsError: A path is not absolute, or a name cannot stand in a unit.
    """
    _check(service)
    return "\n".join(
        [
            *_head(),
            *_run(service),
            *_limits(service),
            *_access_control(service),
            *_tail(),
        ]
    )


def install_service(
    service: Service, *, folder: Path = UNIT_FOLDER, name: str = "flash-edge"
) -> tuple[Path, str]:
    """Writes the unit, whole or not at all, and says which commands start it.

    Args:
        service: What it runs.
        folder: Where units are.
        name: The unit's name.

    Raises:
        SettingsError: As `unit_text`, or systemd itself finds a fault in the unit.
        CheckpointError: The folder cannot be written; root is needed.
    """
    text = unit_text(service)
    faults = check_unit(text, name=name)
    if faults:
        raise SettingsError(
            f"systemd does not accept the unit: {faults}",
            remedy="Report the message with your version of systemd.",
        )
    for written in filter(None, (service.state, service.models)):
        make_private(written)  # the unit needs it there
        with contextlib.suppress(LookupError, PermissionError):
            shutil.chown(written, service.user)
    path = folder / f"{name}.service"
    replace_file(path, text.encode())
    path.chmod(0o644)
    return path, f"systemctl daemon-reload && systemctl enable --now {name}"


def check_unit(text: str, *, name: str = "flash-edge") -> str:
    """Complaints of ``systemd-analyze verify`` about a unit; empty if none.

    Empty too where systemd is not installed: then there is nobody to ask.
    """
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return ""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - a private name in it
    path = folder / f"{name}-check-{os.getpid()}.service"
    replace_file(path, text.encode())
    path.chmod(0o644)
    try:
        asked = (tool, "verify", "--man=no", "--recursive-errors=no", str(path))
        done = output_of(asked, timeout_s=60)
    finally:
        path.unlink(missing_ok=True)
    ours = [line for line in done.stderr.splitlines() if path.stem in line]
    return "; ".join(ours)


def this_service(
    settings: Path,
    state: Path,
    data: Path,
    identity: Path | None = None,
    **other: object,
) -> Service:
    """A `Service` for the program that runs now and the user at the keyboard.

    Raises:
        SettingsError: That user has no name, so a unit cannot name it.
    """
    installed = beside("flash-edge")
    found = shutil.which("flash-edge")
    program = installed if installed.exists() else Path(found or installed)
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError) as error:
        raise SettingsError(
            f"the user with the number {os.getuid()} has no name on this system",
            remedy="Give the command as a user that the system knows, with sudo.",
        ) from error
    return Service(
        settings=settings.resolve(),
        state=state.resolve(),
        data=data.resolve(),
        program=program,
        user=user,
        identity=None if identity is None else identity.resolve(),
        **other,  # type: ignore[arg-type]
    )


def _head() -> list[str]:
    return [
        "[Unit]",
        "Description=flash-edge: trains its part of a sparse model",
        # For dates in the log; certificates hold with a clock that is behind.
        "Wants=network-online.target time-sync.target",
        "After=network-online.target time-sync.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
    ]


def _run(service: Service) -> list[str]:
    return [
        "Type=exec",
        f"User={service.user}",
        f"ExecStart={_quoted(service.program)} run {_quoted(service.settings)}",
        f"WorkingDirectory={service.work or service.state}",
        "Restart=always",
        "RestartSec=10",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in LASTING)}",
        f"TimeoutStopSec={STOP_S}",
        "Environment=PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE",
        "",
    ]


def _limits(service: Service) -> list[str]:
    lines = ["# What the owner lends; other programs come first.", "Nice=10"]
    lines += ["IOSchedulingClass=idle", "OOMScoreAdjust=500"]
    if service.ram_mib is not None:
        # The agent keeps its own memory below the cap; libraries' pages come on top.
        # systemd's limit holds where that was not enough.
        lines += [f"MemoryMax={service.ram_mib + MARGIN_MIB}M", "MemorySwapMax=0"]
    if service.cpu_share < 1:
        quota = max(1, round(100 * service.cpu_share * service.cores))
        lines.append(f"CPUQuota={quota}%")
    return [*lines, "TasksMax=256", ""]


def _access_control(service: Service) -> list[str]:
    return [
        "# It reads its data, writes its state, talks to its broker, and that is all.",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        f"ReadWritePaths={' '.join(map(_quoted, _written(service)))}",
        f"ReadOnlyPaths={_quoted(service.data)} {_quoted(service.settings)}",
        "PrivateTmp=yes",
        f"PrivateDevices={'no' if service.gpu else 'yes'}",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "LockPersonality=yes",
        "RemoveIPC=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
        "UMask=0077",
        "# No MemoryDenyWriteExecute: torch compiles kernels at run time.",
        "",
    ]


def _written(service: Service) -> list[Path]:
    more = service.identity, service.models
    return [service.state, *(path for path in more if path is not None)]


def _tail() -> list[str]:
    return ["[Install]", "WantedBy=multi-user.target", ""]


def _check(service: Service) -> None:
    for what in ("settings", "state", "data", "program", "identity", "models", "work"):
        path = getattr(service, what)
        if path is None:
            continue
        if not path.is_absolute() or any(c in str(path) for c in "\n\r\"'\\%$"):
            raise SettingsError(f"the service's {what} {str(path)!r} cannot be used")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", service.user):
        raise SettingsError(f"user {service.user!r} cannot stand in a unit")
    if not 0 < service.cpu_share <= 1:
        raise SettingsError(f"cpu_share {service.cpu_share} is not in (0, 1]")


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)
