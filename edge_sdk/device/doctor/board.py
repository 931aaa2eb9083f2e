"""The board itself: word size, clock, memory, disk, vector units, heat."""

from __future__ import annotations

import datetime as dt
import os
import platform

from device_profiles import ProfileError
from edge_sdk.device.doctor.check import Check, DoctorTarget
from edge_sdk.device.probe.board import (
    clock_complaint,
    free_disk_mib,
    is_32_bit,
    nearest_folder,
    read_board,
)
from edge_sdk.device.probe.ram import ram_for_agent
from edge_sdk.device.probe.sensors import read_thermal
from edge_sdk.settings import profile_of

__all__ = ["clock", "disk", "profile", "ram", "simd", "thermal", "word_size"]

# `import torch` and a first step hold 214 MiB; a small model needs some more.
LEAST_RAM_MIB = 260
# The journal, an update, the log of a week.
LEAST_DISK_MIB = 200


def word_size(_: DoctorTarget) -> Check:
    """A 32-bit system has no wheels of numpy and torch."""
    machine = platform.machine()
    if is_32_bit():
        return Check(
            "system",
            "problem",
            f"Python is a 32-bit program on {machine}: numpy and torch have no wheels",
            "Install the 64-bit edition of Raspberry Pi OS.",
        )
    return Check("system", "PASS", f"64-bit Python {platform.python_version()}")


def clock(patient: DoctorTarget) -> Check:
    """A clock in 1970 breaks TLS and the dates of profiles."""
    today = patient.today or dt.datetime.now(tz=dt.timezone.utc).date()
    complaint = clock_complaint(today)
    if complaint:
        return Check("clock", "problem", complaint, "timedatectl set-ntp true")
    return Check("clock", "PASS", f"{today.isoformat()}")


def ram(patient: DoctorTarget) -> Check:
    """Check the memory that all limits together leave for the agent."""
    ram = ram_for_agent(patient.root)
    if ram.free_mib < LEAST_RAM_MIB:
        return Check(
            "memory",
            "problem",
            f"{ram.free_mib} MiB for the agent, {LEAST_RAM_MIB} are needed; {ram.why}",
            "Stop other programs, raise the limit named, or add swap on zram.",
        )
    return Check("memory", "PASS", f"{ram.free_mib} MiB for the agent; {ram.why}")


def disk(patient: DoctorTarget) -> Check:
    """Room for the journal, an update and the logs."""
    free, there = free_disk_mib(patient.state), nearest_folder(patient.state)
    if not os.access(there, os.W_OK):
        return Check(
            "disk",
            "problem",
            f"{there} cannot be written by this user, and the agent keeps its state "
            f"in {patient.state}",
            "Give the folder to the agent's user, or set `state` to another.",
        )
    if free < LEAST_DISK_MIB:
        return Check(
            "disk",
            "problem",
            f"{free} MiB free at {patient.state}, {LEAST_DISK_MIB} are needed",
            "Free some space, or set `state` to a folder on another disk.",
        )
    return Check("disk", "PASS", f"{free} MiB free")


def profile(patient: DoctorTarget) -> Check:
    """The profile that the settings name can be read."""
    if patient.profile is None:
        return Check("profile", "skipped", "no settings were named")
    try:
        found = profile_of(patient.profile, patient.beside)
    except ProfileError as error:
        return Check("profile", "problem", str(error), error.help)
    which = "measured" if found.provenance.kind == "measured" else "estimated"
    return Check("profile", "PASS", f"{found.board}, {which} {found.provenance.on}")


def simd(patient: DoctorTarget) -> Check:
    """The processor's vector units."""
    board = read_board(patient.root)
    wide = {"asimd", "avx2", "avx512f"} & set(board.simd)
    if board.simd and not wide:
        return Check(
            "vector units",
            "problem",
            f"only {', '.join(board.simd)}: training will be slow",
            "Use the masked engine, or a board with NEON or AVX2.",
        )
    found = ", ".join(board.simd) or "not reported by this kernel"
    return Check("vector units", "PASS", f"{board.cores} cores, {found}")


def thermal(patient: DoctorTarget) -> Check:
    """Temperature, throttling, under-voltage."""
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
