"""Finds the emulator, the Debian root and the wheels; else says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def arm_folder() -> Path:
    """Where `prepare.sh` put things."""
    folder = os.environ.get("FLASH_EDGE_ARM", "")
    required = os.environ.get("FLASH_EDGE_REQUIRE_ARM") == "1"
    why = ""
    if shutil.which("qemu-aarch64-static") is None:
        why = "qemu-aarch64-static is not installed (apt-get install qemu-user-static)"
    elif not folder or not (Path(folder) / "site/torch").is_dir():
        why = "no ARM root: sh tests/arm/prepare.sh DIR, then FLASH_EDGE_ARM=DIR"
    if why and required:
        pytest.fail(why)
    if why:
        pytest.skip(why)
    return Path(folder)


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the kernels cross-compiled for ARM."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no cross compiler (apt-get install g++-aarch64-linux-gnu)")
    folder = tmp_path_factory.mktemp("cache")
    subprocess.run(
        ["python", "-m", "edge_sdk.kernels.build", "--target", "aarch64"],
        env={**os.environ, "XDG_CACHE_HOME": str(folder)},
        cwd=PROJECT,
        check=True,
        timeout=300,
    )
    return folder


@pytest.fixture(scope="session")
def on_arm(arm_folder: Path) -> Run:
    """Starts Python in the emulator: ``on_arm("cortex-a72", ["script.py"])``."""

    def start(
        cpu: str, arguments: Sequence[str], *, cache: Path | None = None
    ) -> subprocess.Popen[str]:
        root = arm_folder / "root"
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(arm_folder),
            "QEMU_LD_PREFIX": str(root),
            "PYTHONPATH": f"{PROJECT}:{arm_folder / 'site'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "FLASH_EDGE_BUILD": "0",
        }
        if cache is not None:
            env["XDG_CACHE_HOME"] = str(cache)
        python = str(root / "usr/bin/python3.11")
        return subprocess.Popen(
            ["qemu-aarch64-static", "-cpu", cpu, python, *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
