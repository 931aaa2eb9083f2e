"""Arena for activations and gradients, reused step after step.

A training step asks for the same tensors again and again, and frees them in nearly the
reverse order. The C library gives large blocks back to the kernel and faults them in
anew (up to half of a ResNet step was page faults), or keeps them in a heap with holes
(141 MiB live, 236 resident). First fit at the lowest address, with neighbours joined,
packs such a pattern almost without holes.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import mmap
import os
import weakref
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.kernels.library import available, kernels

__all__ = ["empty", "empty_like", "release"]

Shape = tuple[int, ...]

_NUMPY: Final[dict[torch.dtype, Any]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
    torch.bfloat16: np.uint16,  # numpy has none
}
_ALIGNMENT: Final = 64  # what the kernels ask for
_SMALL: Final = 32 * 1024  # below this the C library's own caches are as good
_NORESERVE: Final = 0x4000  # Linux; Python names it from 3.11 on


class _Arena:
    """Free intervals of one stretch of addresses; the interpreter lock guards them."""

    def __init__(self, pages: mmap.mmap) -> None:
        self.pages = pages
        self.memory: NDArray[np.uint8] = np.frombuffer(pages, np.uint8)
        self.starts, self.ends = [0], [len(pages)]
        self.top = 0
        self.lent: dict[int, tuple[Any, int, int]] = {}

    def take(self, shape: Shape, dtype: torch.dtype) -> torch.Tensor | None:
        """A tensor whose memory comes back when its storage dies; None if too large.

        It is made in one step, not as a view of another tensor: autograd adds gradients
        in place only where nobody else holds the storage.
        """
        count = math.prod(shape) * dtype.itemsize
        # An odd number of lines apart, or equal planes would fall on equal cache sets.
        size = -(-count // _ALIGNMENT) * _ALIGNMENT + 3 * _ALIGNMENT
        start = self._claim(size)
        if start < 0:
            return None
        view = self.memory[start : start + count].view(_NUMPY[dtype]).reshape(shape)
        key = id(view)

        def returned(_: object, key: int = key) -> None:
            _, start, size = self.lent.pop(key)
            self._give(start, start + size)

        self.lent[key] = weakref.ref(view, returned), start, size
        tensor = torch.from_numpy(view)
        return tensor if tensor.dtype == dtype else tensor.view(dtype)

    def _claim(self, size: int) -> int:
        for i, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            if end - start >= size:
                if end - start == size:
                    del self.starts[i], self.ends[i]
                else:
                    self.starts[i] = start + size
                self.top = max(self.top, start + size)
                return start
        return -1

    def _give(self, start: int, end: int) -> None:
        i = bisect.bisect_left(self.starts, start)
        if i < len(self.starts) and self.starts[i] == end:
            end = self.ends[i]
            del self.starts[i], self.ends[i]
        if i and self.ends[i - 1] == start:
            self.ends[i - 1] = end
        else:
            self.starts.insert(i, start)
            self.ends.insert(i, end)

    def trim(self) -> None:
        """Gives the pages of free intervals back to the system."""
        page = mmap.PAGESIZE
        for start, end in zip(self.starts, self.ends, strict=True):
            first = -(-start // page) * page
            last = min(end, -(-self.top // page) * page) // page * page
            if last > first:
                self.pages.madvise(mmap.MADV_DONTNEED, first, last - first)
        if self.starts and self.ends[-1] == len(self.pages):
            self.top = self.starts[-1]


def _open() -> _Arena | None:
    """Addresses for as much as the machine has; pages are only used when touched."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        pages = mmap.mmap(-1, size, flags=flags)
    except (OSError, ValueError, OverflowError):
        return None  # a limit on addresses: torch's own allocator does
    with contextlib.suppress(OSError, AttributeError):
        pages.madvise(mmap.MADV_HUGEPAGE)  # fewer TLB misses, where allowed
    return _Arena(pages)


_arena: Final = _open()


def empty(shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised CPU tensor on a 64-byte boundary."""
    if _arena is not None and math.prod(shape) * dtype.itemsize >= _SMALL:
        tensor = _arena.take(shape, dtype)
        if tensor is not None:
            return tensor
    return torch.empty(shape, dtype=dtype)


def empty_like(tensor: torch.Tensor) -> torch.Tensor:
    """An uninitialised contiguous tensor of the same shape and dtype."""
    return empty(tuple(tensor.shape), tensor.dtype)


def release() -> None:
    """Gives unused memory and this thread's kernel work space back to the system.

    Call it when a round of training is over and the process stays.
    """
    if _arena is not None:
        _arena.trim()
    if available():
        kernels().library.fe_release_scratch()
