"""The kernels without Python: under the sanitizers, and on an emulated ARM processor.

FLASH_EDGE_REQUIRE_CROSS=1 turns a missing tool into a failure; continuous integration
sets it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from patience import patience

from edge_sdk.kernels.build import SOURCES, build, targets_for, this_machine

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


def compile_driver(compiler: str, flags: list[str], folder: Path) -> Path:
    """One object per source, two at a time, then the link."""

    def one(source: Path) -> str:
        out = folder / f"{source.stem}.o"
        command = [compiler, "-std=gnu++17", "-fopenmp", *flags, f"-I{SOURCES}"]
        subprocess.run(
            [*command, "-c", source, "-o", out], check=True, timeout=patience(280)
        )
        return str(out)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(one, [DRIVER, *sorted(SOURCES.glob("*.cpp"))]))
    program = folder / "driver"
    link = [f for f in flags if f.startswith(("-fsanitize", "-static"))]
    subprocess.run([compiler, "-fopenmp", *link, *objects, "-o", program], check=True)
    return program


def run(*command: str | Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(200), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(this_machine() != "x86_64", reason="flags are for x86-64")
def test_address_and_undefined_behaviour_sanitizers_find_nothing(
    tmp_path: Path,
) -> None:
    flags = ["-O1", "-g", "-msse4.1", "-DFE_VECTOR_BYTES=16"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run(compile_driver(tool("g++"), [*flags, *checks], tmp_path), "20")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_arm_build_computes_the_same_under_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64-static")
    (target,) = targets_for("aarch64")
    program = compile_driver(compiler, ["-O2", *target.flags, "-static"], tmp_path)
    run(emulator, program, "10")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_arm_library_is_a_shared_object_for_that_machine(tmp_path: Path) -> None:
    tool("aarch64-linux-gnu-g++")
    (path,) = build(targets_for("aarch64"), tmp_path)
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
