"""The kernels without Python: under the sanitizers, and on an emulated ARM processor.

FLASH_EDGE_REQUIRE_CROSS=1 turns a missing tool into a failure; continuous integration
sets it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from checked_kernels import checked_program
from compiled import compiled
from patience import patience

from edge_sdk.kernels import build as building
from edge_sdk.kernels.build import (
    SOURCES,
    build,
    find_compiler,
    targets_for,
    this_machine,
)

DRIVER = Path(__file__).with_name("driver.cpp")


def tool(name: str) -> str:
    """The tool's path; skips, or fails where continuous integration wants it."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("FLASH_EDGE_REQUIRE_CROSS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def arm_library() -> Path:
    """The library as it is shipped to boards, cross-compiled once per version."""
    (target,) = targets_for("aarch64")
    folder = compiled(
        "arm-library",
        lambda folder: build([target], folder),
        compiler=tool("aarch64-linux-gnu-g++"),
        flags=target.flags,
        sources=[SOURCES, Path(building.__file__)],
    )
    return folder / target.filename


def run(*command: str | Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(200), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
def test_address_and_undefined_behaviour_sanitizers_find_nothing() -> None:
    run(checked_program(DRIVER), "20")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_arm_build_computes_the_same_under_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64-static")
    library, program = arm_library(), tmp_path / "driver"
    (target,) = targets_for("aarch64")
    flags = ["-std=gnu++17", "-fopenmp", "-O2", *target.flags, f"-I{SOURCES}"]
    found = f"-Wl,-rpath,{library.parent}"
    line = [compiler, *flags, DRIVER, library, found, "-o", program]
    subprocess.run(line, check=True, timeout=patience(280))
    run(emulator, "-L", "/usr/aarch64-linux-gnu", program, "10")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_arm_library_is_a_shared_object_for_that_machine() -> None:
    header = arm_library().read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
