"""Ports for servers that a test starts later, or that are to be nobody's."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["free_port"]

# The system gives ports from 32768 on to every client, and to whoever asks for any: one
# of those may be another's before the server of a test has started.
PORTS = range(20_000, 32_768)
_taken: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that no other test gets as long as this process runs."""
    for port in np.random.default_rng().permutation(PORTS).tolist():
        if port not in _taken and _locked(port) and _can_be_used(port):
            _taken.add(port)
            return port
    raise OSError("no port is free")


@functools.cache
def _book() -> IO[bytes]:
    """A file with a byte per port; who locks that byte has the port."""
    path = Path(tempfile.gettempdir()) / f"flash-edge-ports-{os.getuid()}"
    return path.open("ab")


def _locked(port: int) -> bool:
    try:
        fcntl.lockf(_book(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _can_be_used(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
