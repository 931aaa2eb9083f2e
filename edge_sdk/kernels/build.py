"""Build of the kernels: the compiler, the flags per ISA, the folder.

Only the standard library is imported, so the packaging hook can run this file before
any dependency is installed. Run it by hand with ``python -m edge_sdk.kernels.build``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if os.name == "posix":
    import fcntl

__all__ = [
    "SEAL",
    "SOURCES",
    "BuildError",
    "LibraryTarget",
    "build",
    "cache_folder",
    "find_compiler",
    "made_once",
    "package_folder",
    "place_library",
    "run_compiler",
    "source_digest",
    "targets_for",
    "this_machine",
]

SEAL = b"flash-edge crc32"  # what a library ends with, before its checksum
SOURCES = Path(__file__).resolve().parent / "src"
_COMMON = ("-O3", "-std=gnu++17", "-fPIC", "-fvisibility=default", "-Wall", "-Wextra")
# A compile of one file takes 2-6 s on a desktop and under a minute on a board.
_TIMEOUT_S = 900.0


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message holds the compiler's words."""


@dataclass(frozen=True)
class LibraryTarget:
    """One shared library to build.

    Attributes:
        name: What FLASH_EDGE_ISA calls it: v4, v3, sse41, neon, or with ``-f64``.
        machine: ``platform.machine()`` it runs on.
        flags: Compiler flags beyond the common ones.
    """

    name: str
    machine: str
    flags: tuple[str, ...]

    @property
    def filename(self) -> str:
        """The library's file name."""
        return f"libflash_edge_{self.name}.so"


_TARGETS = (
    # GCC prefers 256-bit vectors on v4 unless told: half the width for nothing.
    LibraryTarget(
        "v4",
        "x86_64",
        ("-march=x86-64-v4", "-mprefer-vector-width=512", "-DFE_VECTOR_BYTES=64"),
    ),
    LibraryTarget("v3", "x86_64", ("-march=x86-64-v3", "-DFE_VECTOR_BYTES=32")),
    LibraryTarget("sse41", "x86_64", ("-msse4.1", "-DFE_VECTOR_BYTES=16")),
    # Without the flag GCC's scheduler lengthens live ranges until the tile spills:
    # 6-60 stack accesses in the inner loops.
    LibraryTarget(
        "neon",
        "aarch64",
        ("-march=armv8-a", "-fno-schedule-insns", "-DFE_VECTOR_BYTES=16"),
    ),
)
# Only tests load it: it is made in a third of the time of -O3.
_QUICK = ("-Og", "-fira-region=one", "-DFE_REAL=double")
_F64 = {
    "x86_64": LibraryTarget(
        "f64", "x86_64", ("-march=x86-64-v3", "-DFE_VECTOR_BYTES=32", *_QUICK)
    ),
    "aarch64": LibraryTarget("f64", "aarch64", ("-DFE_VECTOR_BYTES=16", *_QUICK)),
}
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


def this_machine() -> str:
    """``platform.machine()`` under one name per architecture."""
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def targets_for(machine: str, *, f64: bool = False) -> tuple[LibraryTarget, ...]:
    """The libraries of one machine type; with `f64` only the float64 one of the tests.

    Raises:
        BuildError: If there is no build for that machine.
    """
    found = (
        tuple(t for t in (_F64.get(machine),) if t)
        if f64
        else tuple(t for t in _TARGETS if t.machine == machine)
    )
    if not found:
        raise BuildError(f"there is no kernel build for the machine type {machine}")
    return found


@functools.cache
def source_digest() -> str:
    """First 16 hex digits of the SHA-256 over sources and flags: the cache's key.

    Once a process: after each task a device that trains masked looks for a library.
    """
    sha = hashlib.sha256()
    for file in _source_files("*"):
        sha.update(file.name.encode() + b"\0" + file.read_bytes())
    for target in (*_TARGETS, *_F64.values()):
        sha.update(repr(target).encode())
    return sha.hexdigest()[:16]


def package_folder(machine: str | None = None) -> Path:
    """Folder of an installed package's libraries, by machine and sources.

    So a source tree never loads one for another machine, or from before an edit.
    """
    name = f"{machine or this_machine()}-{source_digest()}"
    return Path(__file__).resolve().parent / "lib" / name


def cache_folder() -> Path:
    """Folder of a build at run time, one per version of the sources."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "flash-edge" / source_digest()


def find_compiler(machine: str) -> str | None:
    """A C++ compiler for the machine type, $CXX first; None if there is none."""
    if machine != this_machine():
        names = [f"{machine}-linux-gnu-g++"]
    else:
        names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def build(targets: Sequence[LibraryTarget], folder: Path) -> list[Path]:
    """Compiles the targets into a folder; a library appears whole or not at all.

    The link leaves the OpenMP run time out on purpose: its symbols resolve to the copy
    that torch carries, so there is one thread pool and not two that fight.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = []
    for target in targets:
        compiler = find_compiler(target.machine)
        if compiler is None:
            raise BuildError(
                f"no C++ compiler for {target.machine} was found; "
                "install g++ (Debian: apt-get install g++)"
            )
        make = functools.partial(_build_one, compiler, target, folder)
        built.append(made_once(folder / target.filename, make))
    return built


def made_once(path: Path, make: Callable[[Path], Path]) -> Path:
    """A library that `make` makes in a scratch folder: by one of several processes."""
    before = _version(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        if os.name != "posix":
            return make(Path(scratch))
        lock = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return make(Path(scratch)) if _version(path) == before else path
        finally:
            os.close(lock)


def _version(path: Path) -> tuple[int, int] | None:
    """Another one for another file of that name; None if nothing is there."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _source_files(suffix: str) -> list[Path]:
    return sorted(f for f in SOURCES.glob(f"*.{suffix}") if f.is_file())


def _build_one(
    compiler: str, target: LibraryTarget, folder: Path, scratch: Path
) -> Path:
    def compile_one(source: Path) -> Path:
        out = scratch / f"{source.stem}.o"
        flags = [*_COMMON, "-fopenmp", *target.flags]
        run_compiler([compiler, *flags, "-c", str(source), "-o", str(out)])
        return out

    # Two at a time: a board with 1 GiB of memory cannot hold four compilers.
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(compile_one, _source_files("cpp")))
    whole = scratch / target.filename
    run_compiler([compiler, "-shared", "-s", "-o", str(whole), *map(str, objects)])
    return place_library(whole, folder / target.filename)


def place_library(made: Path, path: Path) -> Path:
    """Moves a library to its place with a checksum at its end, which loaders skip.

    It is on the disk before its name is: after a power cut a file may be zeros.

    Args:
        made: Just linked, on the same file system; it is gone afterwards.
        path: Replaced, whatever is there.

    Raises:
        OSError: If it cannot be written.
    """
    checksum = zlib.crc32(made.read_bytes()).to_bytes(4, "little")
    with made.open("ab") as file:
        file.write(SEAL + checksum)
        file.flush()
        os.fsync(file.fileno())
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    return made.replace(path)


def run_compiler(command: list[str]) -> None:
    """Run a compiler to its end.

    Raises:
        BuildError: If it cannot be started or refuses the sources; has its last words.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a compiler and our own sources
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the libraries of a machine and prints their paths."""
    parser = argparse.ArgumentParser(prog="python -m edge_sdk.kernels.build")
    parser.add_argument(
        "--target",
        default=this_machine(),
        choices=("x86_64", "aarch64"),
        help="machine type to build for (default: this one)",
    )
    text = "the float64 build that the tests compare with"
    parser.add_argument("--f64", action="store_true", help=text)
    text = "where to put them (default: the cache folder)"
    parser.add_argument("--folder", type=Path, help=text)
    options = parser.parse_args(arguments)
    try:
        targets = targets_for(options.target, f64=options.f64)
        for path in build(targets, options.folder or cache_folder()):
            sys.stdout.write(f"{path}\n")
    except (BuildError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
