"""Arrays between pages that nobody may touch: one value further ends the process."""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass

import numpy as np

from edge_sdk.infer.library import runtime_library

__all__ = ["NativeCall", "guarded", "protect"]

PAGE = mmap.PAGESIZE
NONE, READ = 0, mmap.PROT_READ
_libc = ctypes.CDLL(None, use_errno=True)


def guarded(values: int, *, at_end: bool) -> np.ndarray:
    """Zeros, float32 (values,), beside the page behind them or the one before."""
    size = values * 4
    inner = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, inner + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + PAGE + inner):
        _mprotect(page, PAGE, NONE)
    offset = PAGE + (inner - size if at_end else 0)
    return np.frombuffer(memory, np.float32, values, offset)


def protect(array: np.ndarray) -> None:
    """Makes the pages of a guarded array ones that only reading leaves alive."""
    start = array.ctypes.data // PAGE * PAGE
    end = -(-(array.ctypes.data + array.nbytes) // PAGE) * PAGE
    _mprotect(start, end - start, READ)


def _mprotect(start: int, size: int, allowed: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), allowed):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass
class NativeCall:
    """A `.flsp` file and one session, called by the C interface.

    Attributes:
        values: Of one example's input, and of its output.
    """

    content: bytes
    threads: int = 1

    def __post_init__(self) -> None:
        self._library = runtime_library()
        error = ctypes.create_string_buffer(512)
        self._model = self._library.flsp_open_memory(
            self.content, len(self.content), error, 512
        )
        assert self._model, error.value
        self._session = self._library.flsp_session_new(
            self._model, self.threads, error, 512
        )
        assert self._session, error.value
        shapes = (ctypes.c_int64 * 3)(), (ctypes.c_int64 * 3)()
        self._library.flsp_input_shape(self._model, shapes[0])
        self._library.flsp_output_shape(self._model, shapes[1])
        self.values = tuple(int(np.prod(list(shape))) for shape in shapes)

    def close(self) -> None:
        """Frees both."""
        self._library.flsp_session_free(self._session)
        self._library.flsp_close(self._model)

    def run(self, given: np.ndarray, made: np.ndarray, batch: int) -> None:
        """One call, on the memory of these arrays."""
        addresses = given.ctypes.data, made.ctypes.data
        assert self._library.flsp_run(self._session, *addresses, batch) == 0

    def copied(self, given: np.ndarray) -> np.ndarray:
        """Outputs of each example, computed in place: the runtime copies such an input.

        Args:
            given: float32 (n, values).
        """
        found = []
        for example in given:
            memory = np.zeros(max(self.values), np.float32)
            memory[: self.values[0]] = example
            self.run(memory, memory, 1)
            found.append(memory[: self.values[1]])
        return np.stack(found)
