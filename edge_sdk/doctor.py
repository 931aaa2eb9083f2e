"""Looks a device over and says what to mend: PASS, or a problem and its fix.

torch is looked at from another process: a build for another processor dies of an
illegal instruction, and a doctor must survive that to say so.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import platform
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from edge_sdk.errors import BrokerError, IdentityError
from edge_sdk.probe.board import (
    clock_complaint,
    free_disk_mib,
    is_32_bit,
    read_board,
)
from edge_sdk.probe.ram import ram_for_agent
from edge_sdk.probe.sensors import read_thermal

if TYPE_CHECKING:
    from edge_sdk.transport.address import Address, Tls

__all__ = ["Check", "Patient", "examine", "render", "torch_complaint"]

Status: TypeAlias = Literal["PASS", "problem", "skipped"]

# `import torch` and a first step hold 214 MiB; a small model needs some more.
LEAST_RAM_MIB = 260
# The journal, an update, the log of a week.
LEAST_DISK_MIB = 200
WAIT_S = 5.0
# A certificate that ends sooner than this should be renewed now.
RENEW_DAYS = 14
REFUSAL_S = 0.5  # a broker that says nothing for so long has taken the certificate
TORCH_FIX = "pip install 'torch>=2.7,<2.10'"
_TORCH_TRIAL = """
import torch
layer = torch.nn.Conv2d(4, 8, 3)
layer(torch.ones(2, 4, 8, 8)).sum().backward()
print(torch.__version__)
"""
_KERNEL_TRIAL = """
from edge_sdk.kernels.library import available, unavailable_reason
name = available()
print(name if name else "-" + str(unavailable_reason()))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ``PASS``, ``problem``, or ``skipped`` when it does not apply here.
        detail: What was found.
        fix: What to do; empty unless it is a problem.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What to look at.

    Attributes:
        broker_url: ``mqtt://host:port`` or ``mqtts://``; None skips.
        tls: For an encrypted link.
        identity: The folder that `flash-edge enroll` wrote; None for none.
        state: The agent's state folder.
        root: Where ``proc`` and ``sys`` are.
        today: The date; the clock's if not given.
    """

    broker_url: str | None = None
    tls: Tls | None = None
    identity: Path | None = None
    state: Path = Path()
    root: Path = Path("/")
    today: dt.date | None = None


def examine(patient: Patient) -> tuple[Check, ...]:
    """Runs every check; none of them changes anything."""
    checks: Sequence[Callable[[Patient], Check]] = (
        _word_size,
        _clock,
        _ram,
        _disk,
        _simd,
        _torch,
        _kernels,
        _thermal,
        _broker,
        _identity,
        _tls,
    )
    return tuple(check(patient) for check in checks)


def render(checks: Sequence[Check]) -> str:
    """One line per check, and a second with the fix under each problem.

    Example:
        >>> print(render([Check("disk", "problem", "3 MiB free", "Free some space.")]))
        problem  disk: 3 MiB free
                 fix: Free some space.
    """
    lines = []
    for check in checks:
        lines.append(f"{check.status:<8} {check.name}: {check.detail}")
        if check.fix:
            lines.append(f"{'':<8} fix: {check.fix}")
    return "\n".join(lines)


def torch_complaint(version: str, machine: str) -> str | None:
    """What is known to be wrong with a build of torch on a processor; None if nothing.

    Example:
        >>> torch_complaint("2.10.0", "aarch64") is not None
        True
        >>> torch_complaint("2.9.1", "aarch64") is None
        True
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return f"torch has the version {version!r}, which says nothing"
    release = int(match[1]), int(match[2])
    if release < (2, 4):
        return f"torch {version} is older than 2.4"
    if machine in ("aarch64", "arm64") and release == (2, 10):
        return (
            f"torch {version} for ARM dies of an illegal instruction on Cortex-A53 and "
            "A72 (Raspberry Pi 3 and 4)"
        )
    return None


def _word_size(_: Patient) -> Check:
    machine = platform.machine()
    if is_32_bit():
        return Check(
            "system",
            "problem",
            f"Python is a 32-bit program on {machine}: numpy and torch have no wheels",
            "Install the 64-bit edition of Raspberry Pi OS.",
        )
    return Check("system", "PASS", f"64-bit Python {platform.python_version()}")


def _clock(patient: Patient) -> Check:
    today = patient.today or dt.datetime.now(tz=dt.timezone.utc).date()
    complaint = clock_complaint(today)
    if complaint:
        return Check("clock", "problem", complaint, "timedatectl set-ntp true")
    return Check("clock", "PASS", f"{today.isoformat()}")


def _ram(patient: Patient) -> Check:
    ram = ram_for_agent(patient.root)
    if ram.free_mib < LEAST_RAM_MIB:
        return Check(
            "memory",
            "problem",
            f"{ram.free_mib} MiB for the agent, {LEAST_RAM_MIB} are needed; {ram.why}",
            "Stop other programs, raise the limit named, or add swap on zram.",
        )
    return Check("memory", "PASS", f"{ram.free_mib} MiB for the agent; {ram.why}")


def _disk(patient: Patient) -> Check:
    free = free_disk_mib(patient.state)
    if free < LEAST_DISK_MIB:
        return Check(
            "disk",
            "problem",
            f"{free} MiB free at {patient.state}, {LEAST_DISK_MIB} are needed",
            "Free some space, or set `state` to a folder on another disk.",
        )
    return Check("disk", "PASS", f"{free} MiB free")


def _simd(patient: Patient) -> Check:
    board = read_board(patient.root)
    wide = {"asimd", "avx2", "avx512f"} & set(board.simd)
    if board.simd and not wide:
        return Check(
            "vector units",
            "problem",
            f"only {', '.join(board.simd)}: training will be slow",
            "Use the masked engine, or a board with NEON or AVX2.",
        )
    found = ", ".join(board.simd) or "not told by this kernel"
    return Check("vector units", "PASS", f"{board.cores} cores, {found}")


def _torch(_: Patient) -> Check:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Check(
            "torch",
            "problem",
            "not installed",
            "pip install 'flash-edge[device]'; on a Jetson take NVIDIA's own wheel.",
        )
    complaint = torch_complaint(version, platform.machine())
    if complaint:
        return Check("torch", "problem", complaint, TORCH_FIX)
    code, said = _trial(_TORCH_TRIAL)
    if code == -signal.SIGILL:
        return Check(
            "torch",
            "problem",
            f"torch {version} was built for another processor (illegal instruction)",
            TORCH_FIX,
        )
    if code:
        return Check("torch", "problem", f"it does not train: {said}", TORCH_FIX)
    return Check("torch", "PASS", f"{said} trains")


def _kernels(_: Patient) -> Check:
    code, said = _trial(_KERNEL_TRIAL)
    if code == 0 and not said.startswith("-"):
        return Check("native kernels", "PASS", said)
    return Check(
        "native kernels",
        "problem",
        said.removeprefix("-") or f"the trial ended with {code}",
        "Install a wheel for this processor, or g++ to build them; until then "
        'engine = "masked" trains, without saving time.',
    )


def _thermal(patient: Patient) -> Check:
    thermal = read_thermal(patient.root)
    if thermal.throttled:
        return Check(
            "heat",
            "problem",
            thermal.detail,
            "Add a heat sink or fan, or the power supply that the board asks for.",
        )
    if thermal.celsius is None:
        return Check("heat", "skipped", thermal.detail)
    if thermal.celsius >= 75.0:
        return Check(
            "heat", "problem", thermal.detail, "Let it cool; add a heat sink or fan."
        )
    return Check("heat", "PASS", thermal.detail)


def _broker(patient: Patient) -> Check:
    if patient.broker_url is None:
        return Check("broker", "skipped", "none named")
    from edge_sdk.transport.address import parse_url  # noqa: PLC0415
    from edge_sdk.transport.mqtt import MqttTransport  # noqa: PLC0415

    try:
        address = parse_url(patient.broker_url, patient.tls)
        if address.tls is not None:
            return Check("broker", "skipped", "asked through TLS, see there")
        MqttTransport(
            address, "doctor", lambda _m: None, lambda _up: None, wait_s=WAIT_S
        ).close()
    except BrokerError as error:
        return Check("broker", "problem", str(error), error.help)
    return Check("broker", "PASS", f"MQTT answers at {address.host}:{address.port}")


def _identity(patient: Patient) -> Check:
    """The key's mode, the pinned authority, and how long the certificate lasts."""
    if patient.identity is None:
        return Check("identity", "skipped", "this device is not enrolled")
    from edge_sdk.identity.folder import DeviceFolder  # noqa: PLC0415
    from edge_sdk.identity.token import pin_of  # noqa: PLC0415

    try:
        folder = DeviceFolder(patient.identity)
    except IdentityError as error:
        return Check("identity", "problem", str(error), error.help)
    left = (folder.certificate.not_valid_after_utc.date() - _today(patient)).days
    if left < RENEW_DAYS:
        return Check(
            "identity",
            "problem",
            f"the certificate of {folder.name} ends in {left} days",
            "Start the agent: it renews with a coordinator that runs. If it is over, "
            "have the operator revoke it, and enrol again.",
        )
    return Check(
        "identity",
        "PASS",
        f"{folder.name} in {folder.federation}, for {left} days; authority "
        f"{pin_of(folder.authority).hex()[:16]}",
    )


def _tls(patient: Patient) -> Check:
    from edge_sdk.transport.address import parse_url  # noqa: PLC0415

    if patient.broker_url is None:
        return Check("TLS", "skipped", "no broker named")
    try:
        address = parse_url(patient.broker_url, patient.tls)
        if address.tls is None:
            return Check("TLS", "skipped", "the link is not encrypted by this device")
        left = (_handshake(address) - _today(patient)).days
    except BrokerError as error:
        return Check("TLS", "problem", str(error), error.help)
    except (OSError, ValueError) as error:
        return Check("TLS", "problem", *_tls_complaint(error, patient.broker_url))
    if left < RENEW_DAYS:
        return Check(
            "TLS",
            "problem",
            f"the broker's certificate ends in {left} days",
            "Restart the coordinator: it makes a new one at each start.",
        )
    return Check("TLS", "PASS", f"handshake done, certificate good for {left} days")


def _tls_complaint(error: Exception, url: str) -> tuple[str, str]:
    """What went wrong with a handshake, and the fix."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not believed: {error.verify_message}",
            "Check the clock, the authority's file, and the broker's name.",
        )
    if "CERTIFICATE_REVOKED" in str(error):
        return (
            "this device was revoked",
            "Ask the operator for a token, delete the identity folder, and enrol.",
        )
    return (
        f"no encrypted link to {url.rpartition('@')[2]}: {error}",
        "Check the port (8883 as a rule), the files, and `flash-edge enroll`.",
    )


def _today(patient: Patient) -> dt.date:
    return patient.today or dt.datetime.now(tz=dt.timezone.utc).date()


def _handshake(address: Address) -> dt.date:
    """The end of the broker's certificate, once it has taken ours too."""
    assert address.tls is not None  # noqa: S101 - asked before
    context = address.tls.context()
    with (
        socket.create_connection((address.host, address.port), timeout=WAIT_S) as raw,
        context.wrap_socket(raw, server_hostname=address.host) as link,
    ):
        found = link.getpeercert() or {}
        # In TLS 1.3 a refusal of our certificate comes after the handshake.
        link.settimeout(REFUSAL_S)
        with contextlib.suppress(TimeoutError):
            link.recv(1)
    until = ssl.cert_time_to_seconds(str(found["notAfter"]))
    return dt.datetime.fromtimestamp(until, tz=dt.timezone.utc).date()


def _trial(program: str) -> tuple[int, str]:
    """Exit status and last line of a Python program in a process of its own."""
    try:
        done = subprocess.run(  # noqa: S603 - a program of ours
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, "no answer within two minutes"
    lines = (done.stdout if done.returncode == 0 else done.stderr).split("\n")
    return done.returncode, next((line for line in reversed(lines) if line), "")
