"""Arrays out of a pickle whose hash is known, and nothing but arrays."""

from __future__ import annotations

import hashlib
import io
import pickle  # noqa: TID251 - two published data sets are pickles; hashes pinned
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_sdk.errors import DataError

__all__ = ["arrays_in", "check_sha256"]


def check_sha256(content: bytes, digest: str, what: str) -> None:
    """Refuses anything but the file that was looked at.

    Raises:
        DataError: If its SHA-256 is another.
    """
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{what} is not the file that was checked")


def arrays_in(pickled: bytes, what: str) -> Any:
    """Lists, dicts, numbers and numpy arrays in a pickle; check its hash before.

    Raises:
        DataError: If it names anything else.
    """
    try:
        return _Arrays(io.BytesIO(pickled), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise DataError(f"{what}: {error}") from error


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> Any:
    """Makes an empty array, as numpy's own; importing its old home warns in numpy 2."""
    return kind.__new__(kind, shape, dtype)


class _Arrays(pickle.Unpickler):
    """Looks up what makes an array and nothing else."""

    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        # How Python 3 writes bytes for Python 2.
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """One of these few names."""
        try:
            return self._ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"{module_name}.{global_name} is not an array"
            ) from None
