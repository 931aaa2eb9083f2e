"""Build of the native inference runtime: one library with every kernel set."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge_sdk.kernels.build import (
    BuildError,
    find_compiler,
    made_once,
    place_library,
    run_compiler,
    this_machine,
)

__all__ = ["LIBRARY", "SOURCES", "build", "cache_folder", "commands", "package_folder"]

# The runtime's sources travel with the exporter that writes its files, and may be
# compiled into any C or C++ program from there.
SOURCES = Path(__file__).resolve().parents[2] / "export" / "native" / "src"
LIBRARY = "libflsp.so"
_COMMON = ("-std=c++17", "-O3", "-fPIC", "-Wall", "-Wextra")
# kernels.cpp once per instruction set; GCC prefers 256-bit vectors on v4 unless told.
_KERNELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "v4": ("-march=x86-64-v4", "-mprefer-vector-width=512", "-DFLSP_BYTES=64"),
        "v3": ("-march=x86-64-v3", "-DFLSP_BYTES=32"),
        "base": ("-DFLSP_BYTES=16",),
    },
    # Without the flag GCC's scheduler lengthens live ranges until the tile spills.
    "aarch64": {"base": ("-fno-schedule-insns", "-DFLSP_BYTES=16")},
}


# Kernels on bytes: bytes_vnni.cpp needs AVX-512's permutations and dot products, and
# offers nothing without; bytes_dot.cpp is compiled once per instruction set.
_BYTES: dict[str, tuple[str, ...]] = {
    "x86_64": (*_KERNELS["x86_64"]["v4"], "-mavx512vbmi", "-mavx512vnni")
}
_DOT: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avxvnni": (*_KERNELS["x86_64"]["v3"], "-mavxvnni"),
        "avx2": _KERNELS["x86_64"]["v3"],
    },
    "aarch64": {
        "dot": ("-march=armv8.2-a+dotprod", *_KERNELS["aarch64"]["base"]),
        "neon": _KERNELS["aarch64"]["base"],
    },
}


def commands(
    compiler: str, machine: str, folder: Path, *, extra: tuple[str, ...] = ()
) -> tuple[list[list[str]], list[Path]]:
    """The compiler calls for all objects, and the objects they leave in `folder`.

    Raises:
        BuildError: If the sources are not there.
    """
    sources = sorted(SOURCES.glob("*.cpp"))
    if not sources:
        raise BuildError(f"the runtime's sources are not in {SOURCES}")
    kernels = _KERNELS.get(machine, {"base": ("-DFLSP_BYTES=16",)})
    dot = _DOT.get(machine, {})
    have = [f"-DFLSP_HAVE_{name.upper()}" for name in (*kernels, *dot)]
    calls, objects = [], []
    for source in sources:
        variants: dict[str, tuple[str, ...]] = {"": tuple(have)}
        if source.stem == "kernels":
            variants = {
                name: (*flags, f"-DFLSP_ISA={name}") for name, flags in kernels.items()
            }
        elif source.stem == "bytes_vnni":
            variants = {"": _BYTES.get(machine, ())}
        elif source.stem == "bytes_dot":
            variants = {
                name: (*flags, f"-DFLSP_DOT={name}") for name, flags in dot.items()
            }
        for name, flags in variants.items():
            out = folder / f"{source.stem}{name}.o"
            call = [compiler, *_COMMON, *flags, *extra, "-c", str(source)]
            calls.append([*call, "-o", str(out)])
            objects.append(out)
    return calls, objects


def build(folder: Path, *, machine: str | None = None) -> Path:
    """Compiles the library into a folder; it appears whole or not at all.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    machine = machine or this_machine()
    compiler = find_compiler(machine)
    if compiler is None:
        raise BuildError(
            f"no C++ compiler for {machine} was found (Debian: apt-get install g++)"
        )

    def make(scratch: Path) -> Path:
        calls, objects = commands(compiler, machine, scratch)
        # Two at a time: a board with 1 GiB of memory cannot hold four compilers.
        with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            list(pool.map(run_compiler, calls))
        whole = scratch / LIBRARY
        link = [compiler, "-shared", "-s", "-o", str(whole), *map(str, objects)]
        run_compiler([*link, "-lpthread"])
        return place_library(whole, folder / LIBRARY)

    folder.mkdir(parents=True, exist_ok=True)
    return made_once(folder / LIBRARY, make)


def package_folder(machine: str | None = None) -> Path:
    """Folder of an installed package's library, by machine and sources.

    So a source tree never loads one for another machine, or from before an edit.
    """
    return SOURCES.parent / "lib" / f"{machine or this_machine()}-{_digest()}"


def cache_folder() -> Path:
    """Folder of a build at run time, one per version of the sources."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "flash-edge" / f"infer-{_digest()}"


def _digest() -> str:
    sha = hashlib.sha256(repr((_COMMON, _KERNELS, _BYTES, _DOT)).encode())
    for file in sorted(SOURCES.glob("*.*")):
        sha.update(file.name.encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()[:16]
