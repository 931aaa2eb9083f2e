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
from compiled import compiled
from patience import patience

from edge_sdk.kernels import build as building
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
        return compile_one(compiler, flags, source, folder)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(one, [DRIVER, *sorted(SOURCES.glob("*.cpp"))]))
    program = folder / "driver"
    link = [f for f in flags if f.startswith("-fsanitize")]
    subprocess.run([compiler, "-fopenmp", *link, *objects, "-o", program], check=True)
    return program


def compile_one(compiler: str, flags: list[str], source: Path, folder: Path) -> str:
    out = folder / f"{source.stem}.o"
    command = [compiler, "-std=gnu++17", "-fopenmp", *flags, f"-I{SOURCES}"]
    subprocess.run(
        [*command, "-c", source, "-o", out], check=True, timeout=patience(280)
    )
    return str(out)


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
@pytest.mark.skipif(this_machine() != "x86_64", reason="flags are for x86-64")
def test_address_and_undefined_behaviour_sanitizers_find_nothing(
    tmp_path: Path,
) -> None:
    compiler = tool("g++")
    # With -g GCC follows variables for half as long again; -g1 names the lines.
    flags = ["-O1", "-g1", "-msse4.1", "-DFE_VECTOR_BYTES=16"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    folder = compiled(
        "checked-driver",
        lambda folder: compile_driver(compiler, flags, folder),
        compiler=compiler,
        flags=flags,
        sources=[SOURCES, *DRIVER.parent.glob("*.h"), DRIVER],
    )
    run(folder / "driver", "20")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_arm_build_computes_the_same_under_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64-static")
    library, program = arm_library(), tmp_path / "driver"
    (target,) = targets_for("aarch64")
    driver = compile_one(compiler, ["-O2", *target.flags], DRIVER, tmp_path)
    found = f"-Wl,-rpath,{library.parent}"
    line = [compiler, "-fopenmp", driver, library, found, "-o", program]
    subprocess.run(line, check=True)
    run(emulator, "-L", "/usr/aarch64-linux-gnu", program, "10")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_arm_library_is_a_shared_object_for_that_machine() -> None:
    header = arm_library().read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
