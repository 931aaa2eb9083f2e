"""Choice of this machine's kernel library, and its C interface through ctypes."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import tempfile
from _ctypes import dlclose
from collections.abc import Iterator
from ctypes import c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge_sdk.errors import EngineError, two_sentences
from edge_sdk.kernels.build import (
    BuildError,
    build,
    cache_folder,
    find_compiler,
    package_folder,
    targets_for,
    this_machine,
)
from edge_sdk.kernels.damage import damage
from edge_sdk.kernels.interface import SIGNATURES
from edge_sdk.kernels.packed import PACKED, unpack_library

__all__ = [
    "Kernels",
    "available",
    "kernels",
    "unavailable_reason",
]

_ABI = 1
_log = logging.getLogger(__name__)
_CPU_FLAGS = {
    "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "v3": {"avx2", "fma", "bmi2"},
    "sse41": {"sse4_1"},
}
_MEANING = {
    1: "an argument is out of range",
    2: "the machine is out of memory",
    3: "the layer is too large for 32-bit offsets",
    6: "a token is out of range",
}


@dataclass(frozen=True)
class Kernels:
    """A loaded kernel library.

    Attributes:
        isa: v4 (AVX-512), v3 (AVX2), sse41, neon, or f64 (the tests' float64 build).
        path: The file it came from.
        vector_bytes: Width of its vectors.
        library: The ctypes handle.
    """

    isa: str
    path: Path
    vector_bytes: int
    library: ctypes.CDLL

    def call(self, name: str, *arguments: object) -> None:
        """Calls a kernel.

        Raises:
            EngineError: With the kernel's name and the meaning of its code.
        """
        code = getattr(self.library, name)(*arguments)
        if code:
            meaning = _MEANING.get(code, f"error code {code}")
            raise EngineError(f"kernel {name}: {meaning}")


def available() -> str | None:
    """The ISA whose library this machine uses, or None; never compiles anything."""
    try:
        return _first(build_missing=False).isa
    except EngineError:
        return None


def unavailable_reason() -> str:
    """The reason why `available` is None; empty if it is not."""
    try:
        _first(build_missing=False)
    except EngineError as error:
        return two_sentences(error, error.help)
    return ""


@cache
def kernels(dtype: object = "float32") -> Kernels:
    """The library for a dtype, loaded once; compiled first if only a compiler is there.

    Set FLASH_EDGE_ISA to v4, v3, sse41 or neon to choose, FLASH_EDGE_BUILD=0 to forbid
    compiling at run time.

    Args:
        dtype: numpy's or torch's, or its name; float64 is the tests' build.

    Raises:
        EngineError: If there is none and none can be built, or none for the dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "float64":
        return _load_or_build("f64", build_missing=_may_build())
    if name != "float32":
        raise EngineError(f"the sparse kernels compute in float32, not {dtype}")
    return _first(build_missing=_may_build())


def _may_build() -> bool:
    return os.environ.get("FLASH_EDGE_BUILD", "1") != "0"


def _first(*, build_missing: bool) -> Kernels:
    """The best library that loads.

    Raises:
        EngineError: If none does; the message says why for each.
    """
    chosen = os.environ.get("FLASH_EDGE_ISA")
    names = [chosen] if chosen else _supported()
    if not names:
        raise EngineError(
            f"there are no sparse kernels for {this_machine()} processors."
        )
    reasons = []
    for name in names:
        try:
            return _load_or_build(name, build_missing=build_missing)
        except EngineError as error:  # noqa: PERF203 - three candidates
            reasons.append(str(error))
    raise EngineError(
        "no sparse kernel library can be used: " + "; ".join(reasons) + ".",
        remedy="Install g++ and run `python -m edge_sdk.kernels.build`; until then "
        "training runs at dense speed.",
    )


def _supported() -> list[str]:
    """ISAs this processor runs, best first."""
    machine = this_machine()
    if machine == "aarch64":
        return ["neon"]
    if machine != "x86_64":
        return []
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ["sse41"]
    line = next((li for li in text.splitlines() if li.startswith("flags")), "")
    flags = set(line.partition(":")[2].split())
    return [name for name, needed in _CPU_FLAGS.items() if needed <= flags]


class _UnusableError(Exception):
    """A library that is there is no good: to be looked for elsewhere, or made anew."""


def _load_or_build(name: str, *, build_missing: bool) -> Kernels:
    filename = f"libflash_edge_{name}.so"
    reason = f"{filename} is not built"
    for folder in _folders():
        if os.path.lexists(folder / filename):
            try:
                return _load(name, folder / filename)
            except _UnusableError as error:
                reason = str(error)
                _log.warning("%s", reason)
    packed = package_folder() / (filename + PACKED)
    if packed.is_file():
        try:
            return _unpacked(name, packed)
        except (_UnusableError, BuildError, OSError) as error:
            reason = str(error)
            _log.warning("%s", reason)
    if not build_missing or find_compiler(this_machine()) is None:
        raise EngineError(reason)
    try:
        return _load(name, _build_now(name))
    except _UnusableError as error:
        raise EngineError(str(error)) from error


def _unpacked(name: str, packed: Path) -> Kernels:
    """A library of the wheel's, in the cache from now on where that can be written."""
    try:
        return _load(name, unpack_library(packed, cache_folder()))
    except OSError as error:
        _log.debug("the kernels are unpacked anew at each start: %s", error)
    with tempfile.TemporaryDirectory() as folder:  # what is loaded needs no name
        return _load(name, unpack_library(packed, Path(folder)))


def _folders() -> tuple[Path, ...]:
    return package_folder(), cache_folder()


def _build_now(name: str) -> Path:
    """Compiles one library into the cache folder: once per version of the sources."""
    try:
        found = targets_for(this_machine(), f64=name == "f64")
        wanted = [t for t in found if t.name == name]
        if not wanted:
            raise EngineError(f"there is no kernel build named {name}")
        _log.info("compiling the sparse kernels (%s), once for this version", name)
        return build(wanted, cache_folder())[0]
    except (BuildError, OSError) as error:
        raise EngineError(f"compiling the sparse kernels failed: {error}") from error


@cache
def _load(name: str, path: Path) -> Kernels:
    """A library whose functions are all there.

    Raises:
        EngineError: If this machine cannot load it; _UnusableError if nobody can.
    """
    if found := damage(path):
        raise _UnusableError(f"{path} {found}")
    try:
        library = _open(path)
    except OSError as error:
        raise EngineError(f"{path.name} does not load: {error}") from error
    try:
        abi = library.fe_abi()
        for function, arguments in SIGNATURES.items():
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = c_int32
    except AttributeError as error:
        dlclose(library._handle)  # noqa: SLF001 - else its name stands for it still
        raise _UnusableError(f"{path} is of another version: {error}") from error
    if abi != _ABI:
        dlclose(library._handle)  # noqa: SLF001 - likewise
        raise _UnusableError(f"{path} has interface {abi}, not {_ABI}")
    library.fe_structure_free.argtypes = [c_void_p]
    library.fe_structure_free.restype = None
    for function in ("fe_structure_nnz", "fe_structure_bytes"):
        getattr(library, function).argtypes = [c_void_p]
        getattr(library, function).restype = c_int64
    return Kernels(name, path, int(library.fe_vector_bytes()), library)


def _open(path: Path) -> ctypes.CDLL:
    """Opens a library whose OpenMP symbols are there, or are brought in.

    torch's import has brought them where it came first. Else the copy that an installed
    torch would bring is loaded without torch, so that one thread pool serves both if
    torch is imported later; without torch it is the system's.

    Raises:
        OSError: If it does not load; says what is missing.
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        copies = [*_torch_openmp(), "libgomp.so.1"]
        try:
            ctypes.CDLL(copies[0], mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise OSError(
                f"{error} (GCC's OpenMP; Debian and Raspberry Pi OS: install libgomp1)"
            ) from error
        return ctypes.CDLL(str(path))


def _torch_openmp() -> Iterator[str]:
    """The OpenMP libraries that an installed torch carries; torch is not imported."""
    spec = importlib.util.find_spec("torch")
    for home in map(Path, (spec and spec.submodule_search_locations) or ()):
        for pattern in ("torch/lib/libgomp*.so*", "torch.libs/libgomp*"):
            yield from map(str, sorted(home.parent.glob(pattern)))
