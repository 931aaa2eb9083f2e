"""Stops the coordinator of a folder, wherever on this machine it was started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from coordinator.ledger import holder
from edge_sdk.errors import StateError

__all__ = ["stop_coordinator"]


def stop_coordinator(folder: Path, wait_s: float) -> int:
    """Asks it to end, as Ctrl-C does, and waits until it has.

    Args:
        folder: The run's folder.
        wait_s: Seconds to wait at most.

    Returns:
        Its process id.

    Raises:
        StateError: If none runs there, it belongs to somebody else, or it does not end.
    """
    pid = holder(folder)
    if pid is None:
        raise StateError(
            f"no coordinator runs in {folder}",
            remedy="See its state with: flash-coordinator status " + str(folder),
        )
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return pid  # it ended by itself just now
    except PermissionError as error:
        raise StateError(
            f"the coordinator of {folder} (process {pid}) belongs to another user",
            remedy="Give the same command as that user, or as root.",
        ) from error
    until = time.monotonic() + wait_s
    while holder(folder) == pid:  # a zombie's lock is gone, its process is not
        if time.monotonic() > until:
            raise StateError(
                f"the coordinator of {folder} (process {pid}) has not ended after "
                f"{wait_s:g} s",
                remedy=f"Wait, or: kill -9 {pid}. No accepted update is lost by that.",
            )
        time.sleep(0.05)
    return pid
