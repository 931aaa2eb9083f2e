"""Libraries as a wheel carries them: those that most machines do not use, compressed.

A machine uses one of an architecture's libraries, so the others need not take their
whole size from its disk. Only the standard library is imported, as in the build.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from types import ModuleType

from edge_sdk.kernels.build import SEAL, BuildError, place_library

__all__ = ["PACKED", "shipped", "unpack_library"]

PACKED = ".xz"  # what follows the name of a library


def shipped(library: Path) -> Path:
    """The form of a library that a wheel carries, made beside it.

    That of most machines is left as it is.
    """
    if not library.stem.endswith(("_v4", "_sse41")):
        return library
    packed = library.with_name(library.name + PACKED)
    body = library.read_bytes()[: -len(SEAL) - 4]
    packed.write_bytes(_lzma().compress(body, preset=9))
    return packed


def unpack_library(packed: Path, folder: Path) -> Path:
    """A library out of what `shipped` made; it appears in a folder whole or not at all.

    Raises:
        OSError: If the folder cannot be written.
        BuildError: If the file is damaged, or this Python was built without lzma.
    """
    lzma = _lzma()
    try:
        body = lzma.decompress(packed.read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise BuildError(f"{packed} is damaged: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "library.so"
        made.write_bytes(body)
        return place_library(made, folder / packed.name.removesuffix(PACKED))


def _lzma() -> ModuleType:
    """Python's module, which one that was compiled by hand may lack."""
    try:
        return importlib.import_module("lzma")
    except ImportError as error:
        raise BuildError(f"this Python has no lzma: {error}") from error
