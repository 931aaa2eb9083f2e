"""Finds the emulator, the Debian root and the wheels; else says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def arm_folder() -> Path:
    """Where `prepare.sh` put things."""
    folder = os.environ.get("FLASH_EDGE_ARM", "")
    required = os.environ.get("FLASH_EDGE_REQUIRE_ARM") == "1"
    why = ""
    if shutil.which("qemu-aarch64-static") is None:
        why = "qemu-aarch64-static is not installed (apt-get install qemu-user-static)"
    elif not folder or not (Path(folder) / "site/edge_sdk").is_dir():
        why = "no ARM root: make arm"
    if why and required:
        pytest.fail(why)
    if why:
        pytest.skip(why)
    return Path(folder)


@pytest.fixture(scope="session")
def on_arm(arm_folder: Path) -> Run:
    """Starts Python in the emulator: ``on_arm("cortex-a72", ["script.py"])``."""

    def start(cpu: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
        root = arm_folder / "root"
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(arm_folder),
            "QEMU_LD_PREFIX": str(root),
            "PYTHONPATH": str(arm_folder / "site"),
            "OMP_NUM_THREADS": "1",
            "FLASH_EDGE_BUILD": "0",  # the wheel's own kernels or none
        }
        python = str(root / "usr/bin/python3.11")
        return subprocess.Popen(
            ["qemu-aarch64-static", "-cpu", cpu, python, *arguments],
            cwd=arm_folder,  # not the sources: what runs is what was installed
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
