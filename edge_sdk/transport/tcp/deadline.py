"""A deadline for a whole exchange on a socket; a timeout is for each read only."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cut_after"]


@contextmanager
def cut_after(link: socket.socket, seconds: float) -> Iterator[None]:
    """Ends a connection if the block takes longer.

    A peer that sends a byte now and then never lets a timeout pass, and a TLS handshake
    reads many times. The connection is shut down through a descriptor of our own, so it
    does not matter that TLS takes the socket over meanwhile.

    Args:
        link: A connected socket, with TLS or without.
        seconds: For the whole block.

    Raises:
        TimeoutError: If it took longer, whatever came of the cut inside.
    """
    # `link.dup` is not there for TLS.
    twin, late = socket.socket(fileno=os.dup(link.fileno())), threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise TimeoutError("timed out") from error
        raise
    finally:
        timer.cancel()
        timer.join()
        twin.close()
    if late.is_set():
        raise TimeoutError("timed out")
