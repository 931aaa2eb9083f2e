"""The runtime's C example as a program, for any machine with a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from compiled import compiled

from edge_sdk.infer.build import SOURCES, commands
from edge_sdk.kernels.build import find_compiler

__all__ = ["emulator", "link", "program"]


def emulator() -> str:
    """What runs programs of aarch64 here; the test is skipped where it is missing."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if find_compiler("aarch64") is None or qemu is None:
        if os.environ.get("FLASH_EDGE_REQUIRE_CROSS") == "1":
            pytest.fail("g++-aarch64-linux-gnu and qemu-user-static are required")
        pytest.skip("g++-aarch64-linux-gnu or qemu-user-static is not installed")
    return qemu


def program(folder: Path, machine: str, extra: tuple[str, ...]) -> Path:
    """The C example with the runtime's sources, as one executable."""
    compiler = find_compiler(machine)
    assert compiler is not None

    def make(into: Path) -> None:
        for call in commands(compiler, machine, into, extra=extra)[0]:
            subprocess.run(call, check=True)

    # The calls without their folder: the flags of every object.
    calls, objects = commands(compiler, machine, Path(), extra=extra)
    flags = [word for call in calls for word in call]
    kept = compiled(
        f"runtime-{machine}", make, compiler=compiler, flags=flags, sources=[SOURCES]
    )
    return link(folder, machine, [kept / path.name for path in objects], extra)


def link(
    folder: Path, machine: str, objects: Iterable[Path], extra: tuple[str, ...]
) -> Path:
    """The C example with objects of the runtime, as one executable."""
    compiler = find_compiler(machine)
    assert compiler is not None
    example = SOURCES.parent / "examples" / "classify.c"
    call = [compiler, "-x", "c", *extra, f"-I{SOURCES}", "-c", str(example)]
    subprocess.run([*call, "-o", str(folder / "classify.o")], check=True)
    out = folder / "classify"
    parts = [*map(str, objects), str(folder / "classify.o")]
    line = [compiler, *extra, *parts, "-lpthread", "-o", str(out)]
    subprocess.run(line, check=True)
    return out
