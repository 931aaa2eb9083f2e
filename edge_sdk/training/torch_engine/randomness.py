"""Random numbers that a task's own torch code draws, by the task's seed alone.

Dropout and stochastic depth draw from torch's global generator. Its state depends on
what the process did before: which devices a worker trained, whether it was killed and
began again, whether other code of the user drew meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Draws"]

# One global generator: two trainings in one process draw one after the other.
_LOCK = threading.RLock()


class Draws:
    """The random numbers of one training, batch by batch.

    Args:
        seed: Of the training.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._batches = seed, 0

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """A block whose draws depend on the seed and the number of batches before it.

        torch's generators, of the processor and of GPUs in use, have their own states
        again behind it.
        """
        words = hashlib.blake2b(
            f"{self._seed} {self._batches}".encode(), digest_size=8
        ).digest()
        seed = int.from_bytes(words, "little") >> 1
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        gpus = torch.cuda.device_count() if used else 0
        with _LOCK, torch.random.fork_rng(devices=range(gpus)):
            torch.default_generator.manual_seed(seed)
            if gpus:
                torch.cuda.manual_seed_all(seed)
            yield
        self._batches += 1

    def state(self) -> NDArray[np.int64]:
        """(1,) the batches that have drawn."""
        return np.array([self._batches], np.int64)

    def put_back(self, state: NDArray[np.generic]) -> None:
        """Takes over what `state` gave; another form, of older versions, is none."""
        if state.shape == (1,):
            self._batches = int(state[0])
