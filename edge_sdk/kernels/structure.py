"""`Structure`: a frozen pattern in the kernels' own form, one per mask and process."""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import Kernels, kernels

__all__ = ["Structure"]

_CACHE: Final[weakref.WeakValueDictionary[bytes, Structure]] = (
    weakref.WeakValueDictionary()
)


class Structure:
    """The frozen pattern of one layer, built natively and shared by digest.

    Use `Structure.of`; layers with the same pattern get the same object.

    Attributes:
        shape: (out, in / groups, kh, kw), or (out, in) for a linear layer.
        groups: Convolution groups.
        nnz: Kept weights.
        kernels: The library it was built by.
    """

    def __init__(
        self,
        pattern: NDArray[np.bool_] | None,
        shape: tuple[int, ...],
        groups: int,
        library: Kernels,
    ) -> None:
        self.shape = shape
        self.groups = groups
        self.kernels = library
        handle = ctypes.c_void_p()
        kernel = shape[2:] or (1, 1)
        address = None if pattern is None else pattern.ctypes.data
        library.call(
            "fe_structure_create", address, shape[0], shape[1], groups, *kernel,
            int(len(shape) == 2), ctypes.byref(handle),
        )  # fmt: skip
        self.handle: int = handle.value or 0
        self.nnz = int(library.library.fe_structure_nnz(self.handle))
        weakref.finalize(self, library.library.fe_structure_free, self.handle)

    @classmethod
    def of(
        cls,
        pattern: NDArray[np.bool_],
        *,
        groups: int = 1,
        dtype: object = "float32",
    ) -> Structure:
        """The structure of a boolean pattern, from the cache if one is alive.

        Args:
            pattern: (out, in / groups, kh, kw) or (out, in).
            groups: Convolution groups; 1 for a linear layer.
            dtype: float32, or float64 for the tests' build, as `kernels` takes it.

        Raises:
            EngineError: If the shape is neither a conv's nor a linear layer's, or no
                kernel library is available.
        """
        if pattern.dtype != np.bool_ or pattern.ndim not in {2, 4} or not pattern.size:
            raise EngineError(
                "a sparse layer needs a boolean pattern (out, in) or "
                f"(out, in, kh, kw), not {pattern.dtype} {pattern.shape}"
            )
        if groups < 1 or pattern.shape[0] % groups:
            raise EngineError(
                f"{pattern.shape[0]} rows do not divide into {groups} groups"
            )
        library = kernels(dtype)
        key = _key(pattern, groups, library)
        found = _CACHE.get(key)
        if found is None:
            full = bool(pattern.all())
            data = None if full else np.ascontiguousarray(pattern)
            found = cls(data, pattern.shape, groups, library)
            _CACHE[key] = found
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of index it holds between steps."""
        return int(self.kernels.library.fe_structure_bytes(self.handle))


def _key(pattern: NDArray[np.bool_], groups: int, library: Kernels) -> bytes:
    sha = hashlib.sha256(f"{library.path}\0{pattern.shape}\0{groups}\0".encode())
    sha.update(np.packbits(pattern).tobytes())
    return sha.digest()
