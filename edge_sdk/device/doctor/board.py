"""The board itself: word size, clock, memory, disk, vector units, heat."""

from __future__ import annotations

import datetime as dt
import os
import platform

from edge_sdk.device.doctor.check import DoctorTarget, Skipped, check_of
from edge_sdk.device.probe.board import (
    clock_complaint,
    free_disk_mib,
    is_32_bit,
    nearest_folder,
    read_board,
)
from edge_sdk.device.probe.ram import ram_for_agent
from edge_sdk.device.probe.sensors import read_thermal
from edge_sdk.errors import EdgeError
from edge_sdk.settings import profile_of

__all__ = ["clock", "disk", "profile", "ram", "simd", "thermal", "word_size"]

# `import torch` and a first step hold 214 MiB; a small model needs some more.
LEAST_RAM_MIB = 260
# The journal, an update, the log of a week.
LEAST_DISK_MIB = 200


@check_of("system")
def word_size(_: DoctorTarget) -> str:
    """A 32-bit system has no wheels of numpy and torch."""
    machine = platform.machine()
    if is_32_bit():
        raise EdgeError(
            f"Python is a 32-bit program on {machine}: numpy and torch have no wheels",
            remedy="Install the 64-bit edition of Raspberry Pi OS.",
        )
    return f"64-bit Python {platform.python_version()}"


@check_of("clock")
def clock(patient: DoctorTarget) -> str:
    """A clock in 1970 breaks TLS and the dates of profiles."""
    today = patient.today or dt.datetime.now(tz=dt.timezone.utc).date()
    complaint = clock_complaint(today)
    if complaint:
        raise EdgeError(complaint, remedy="timedatectl set-ntp true")
    return f"{today.isoformat()}"


@check_of("memory")
def ram(patient: DoctorTarget) -> str:
    """Check the memory that all limits together leave for the agent."""
    ram = ram_for_agent(patient.root)
    if ram.free_mib < LEAST_RAM_MIB:
        raise EdgeError(
            f"{ram.free_mib} MiB for the agent, {LEAST_RAM_MIB} are needed; {ram.why}",
            remedy="Stop other programs, raise the limit named, or add swap on zram.",
        )
    return f"{ram.free_mib} MiB for the agent; {ram.why}"


@check_of("disk")
def disk(patient: DoctorTarget) -> str:
    """Room for the journal, an update and the logs."""
    free, there = free_disk_mib(patient.state), nearest_folder(patient.state)
    if not os.access(there, os.W_OK):
        raise EdgeError(
            f"{there} cannot be written by this user, and the agent keeps its state "
            f"in {patient.state}",
            remedy="Give the folder to the agent's user, or set `state` to another.",
        )
    if free < LEAST_DISK_MIB:
        raise EdgeError(
            f"{free} MiB free at {patient.state}, {LEAST_DISK_MIB} are needed",
            remedy="Free some space, or set `state` to a folder on another disk.",
        )
    return f"{free} MiB free"


@check_of("profile")
def profile(patient: DoctorTarget) -> str:
    """The profile that the settings name can be read."""
    if patient.profile is None:
        return Skipped("no settings were named")
    found = profile_of(patient.profile, patient.beside)
    which = "measured" if found.provenance.kind == "measured" else "estimated"
    return f"{found.board}, {which} {found.provenance.on}"


@check_of("vector units")
def simd(patient: DoctorTarget) -> str:
    """The processor's vector units."""
    board = read_board(patient.root)
    wide = {"asimd", "avx2", "avx512f"} & set(board.simd)
    if board.simd and not wide:
        raise EdgeError(
            f"only {', '.join(board.simd)}: training will be slow",
            remedy="Use the masked engine, or a board with NEON or AVX2.",
        )
    found = ", ".join(board.simd) or "not reported by this kernel"
    return f"{board.cores} cores, {found}"


@check_of("heat")
def thermal(patient: DoctorTarget) -> str:
    """Temperature, throttling, under-voltage."""
    thermal = read_thermal(patient.root)
    if thermal.throttled:
        raise EdgeError(
            thermal.detail,
            remedy="Add a heat sink or fan, or the power supply that the board asks "
            "for.",
        )
    if thermal.celsius is None:
        return Skipped(thermal.detail)
    if thermal.celsius >= 75.0:
        raise EdgeError(thermal.detail, remedy="Let it cool; add a heat sink or fan.")
    return thermal.detail
