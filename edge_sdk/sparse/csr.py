"""`CsrTensor`: one masked layer as compressed sparse rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DependencyError, SparsityError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["CsrTensor"]


@dataclass(frozen=True, slots=True, eq=False)
class CsrTensor:
    """One masked layer, rows x columns; a conv (O, I, kh, kw) is O x (I*kh*kw).

    Attributes:
        shape: (rows, columns).
        indptr: int32 (rows + 1,); row r owns ``indptr[r]:indptr[r + 1]``.
        indices: int32 (nnz,); columns, strictly ascending within a row.
        values: float32 (nnz,); may hold 0.0, for the mask decides what is kept.

    Raises:
        SparsityError: If the parts do not describe a canonical CSR matrix.
    """

    shape: tuple[int, int]
    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        rows, cols = self.shape
        ptr, idx = self.indptr, self.indices
        if rows < 0 or cols < 0 or max(rows, cols) > np.iinfo(np.int32).max:
            raise SparsityError(f"CSR shape {self.shape} is out of range")
        if ptr.dtype != np.int32 or idx.dtype != np.int32:
            raise SparsityError("CSR indptr and indices must be int32")
        if self.values.dtype != np.float32:
            raise SparsityError("CSR values must be float32")
        if ptr.shape != (rows + 1,) or idx.ndim != 1 or self.values.shape != idx.shape:
            raise SparsityError("CSR arrays do not fit the shape")
        if ptr[0] != 0 or ptr[-1] != idx.size or np.any(np.diff(ptr) < 0):
            raise SparsityError("CSR indptr is not ascending from 0 to nnz")
        if idx.size and (idx.min() < 0 or idx.max() >= cols):
            raise SparsityError("CSR indices point outside the row")
        if idx.size > 1:
            rising = np.diff(idx) > 0
            starts = ptr[1:-1][(ptr[1:-1] > 0) & (ptr[1:-1] < idx.size)]
            rising[starts - 1] = True
            if not rising.all():
                raise SparsityError("CSR indices are not ascending within a row")

    @classmethod
    def structure(
        cls, pattern: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(indptr, indices) of a boolean pattern of any number of axes >= 2."""
        flat = pattern.reshape(pattern.shape[0], -1)
        row_counts = np.count_nonzero(flat, axis=1)
        indptr = np.concatenate([[0], np.cumsum(row_counts)]).astype(np.int32)
        return indptr, np.nonzero(flat)[1].astype(np.int32)

    @classmethod
    def from_values(
        cls, pattern: NDArray[np.bool_], values: NDArray[np.float32]
    ) -> CsrTensor:
        """The kept values, in row-major order, with the pattern's structure."""
        indptr, indices = cls.structure(pattern)
        cols = math.prod(pattern.shape[1:])
        return cls((pattern.shape[0], cols), indptr, indices, values)

    @classmethod
    def from_dense(
        cls, weight: NDArray[np.float32], pattern: NDArray[np.bool_]
    ) -> CsrTensor:
        """A weight under its mask; kept zeros stay.

        Example:
            >>> weight = np.array([[0.0, 2.0], [3.0, 0.0]], np.float32)
            >>> keep = np.array([[True, True], [True, False]])
            >>> CsrTensor.from_dense(weight, keep).values.tolist()
            [0.0, 2.0, 3.0]
        """
        if weight.shape != pattern.shape:
            raise SparsityError(
                f"weight {weight.shape} and mask {pattern.shape} differ"
            )
        return cls.from_values(pattern, weight[pattern].astype(np.float32, copy=False))

    @property
    def nnz(self) -> int:
        """Kept weights."""
        return int(self.indices.size)

    def to_dense(self) -> NDArray[np.float32]:
        """The rows x columns matrix with zeros where nothing is kept."""
        out = np.zeros(self.shape, np.float32)
        out[np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices] = (
            self.values
        )
        return out

    def pattern(self) -> NDArray[np.bool_]:
        """The rows x columns boolean pattern."""
        out = np.zeros(self.shape, np.bool_)
        out[np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices] = (
            True
        )
        return out

    def to_scipy(self) -> csr_matrix:
        """The same matrix as `scipy.sparse.csr_matrix`, explicit zeros kept.

        Raises:
            DependencyError: If scipy is not installed.
        """
        try:
            from scipy.sparse import csr_matrix  # noqa: PLC0415 - optional on devices
        except ImportError as error:
            raise DependencyError(
                "scipy is not installed: pip install 'flash-edge[coordinator]'"
            ) from error
        return csr_matrix((self.values, self.indices, self.indptr), shape=self.shape)

    @classmethod
    def from_scipy(cls, matrix: csr_matrix) -> CsrTensor:
        """A `scipy.sparse.csr_matrix`, brought to canonical order."""
        own = matrix.copy()
        own.sum_duplicates()
        return cls(
            (int(own.shape[0]), int(own.shape[1])),
            own.indptr.astype(np.int32),
            own.indices.astype(np.int32),
            own.data.astype(np.float32),
        )
