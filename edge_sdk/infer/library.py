"""Finds or builds the native runtime, and its C interface as ctypes sees it."""

from __future__ import annotations

import ctypes
import logging
import os
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from edge_sdk.errors import EngineError
from edge_sdk.infer.build import LIBRARY, build, cache_folder, package_folder
from edge_sdk.kernels.build import BuildError
from edge_sdk.kernels.damage import damage

__all__ = ["InputArray", "runtime_library"]

_ABI = 1
_log = logging.getLogger(__name__)
_REMEDY = "Install g++ (Debian: apt-get install g++) or a wheel that has the runtime."


class InputArray(ctypes.Structure):
    """One of several inputs, as `flsp_run_several` takes it (flsp.h)."""

    _fields_ = (("data", c_void_p), ("type", c_int), ("values", c_int64))


@cache
def runtime_library() -> ctypes.CDLL:
    """The loaded runtime; compiled into the cache folder if only a compiler is there.

    FLASH_EDGE_BUILD=0 forbids compiling at run time.

    Raises:
        EngineError: If it is not built and cannot be, or does not load.
    """
    path = _path()
    try:
        library = ctypes.CDLL(str(path))
        abi = library.flsp_abi()
    except (OSError, AttributeError) as error:
        raise EngineError(f"{path} does not load: {error}", remedy=_REMEDY) from error
    if abi != _ABI:
        raise EngineError(f"{path} has interface {abi}, not {_ABI}", remedy=_REMEDY)
    shape = POINTER(c_int64)
    signatures = {
        "flsp_open": ([c_char_p, c_char_p, c_size_t], c_void_p),
        "flsp_open_memory": ([c_char_p, c_size_t, c_char_p, c_size_t], c_void_p),
        "flsp_close": ([c_void_p], None),
        "flsp_input_shape": ([c_void_p, shape], None),
        "flsp_output_shape": ([c_void_p, shape], None),
        "flsp_metadata": ([c_void_p], c_char_p),
        "flsp_isa": ([c_void_p], c_char_p),
        "flsp_session_new": ([c_void_p, c_int, c_char_p, c_size_t], c_void_p),
        "flsp_session_free": ([c_void_p], None),
        "flsp_run": ([c_void_p, c_void_p, c_void_p, c_int64], c_int),
        "flsp_run_several": (
            [c_void_p, POINTER(InputArray), c_int, c_void_p, c_int64],
            c_int,
        ),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = result
    return library


def _path() -> Path:
    """The first library that is whole, or one that is made now.

    Raises:
        EngineError: If there is none and none can be built.
    """
    reason = "the native runtime is not built"
    for path in (package_folder() / LIBRARY, cache_folder() / LIBRARY):
        if os.path.lexists(path):
            found = damage(path)
            if not found:
                return path
            reason = f"{path} {found}"
            _log.warning("%s", reason)
    if os.environ.get("FLASH_EDGE_BUILD", "1") == "0":
        raise EngineError(reason, remedy=_REMEDY)
    try:
        return build(cache_folder())
    except (BuildError, OSError) as error:
        raise EngineError(
            f"the native runtime could not be compiled: {error}", remedy=_REMEDY
        ) from error
