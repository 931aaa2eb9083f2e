"""Memory of a device from one of its updates to the next.

Rule 1. A memory belongs to the task whose update made it, and lies on the disk before
        that update is promised. Orders name the last task that counted, so an update
        that was refused, late or lost is forgotten together with its memory.
Rule 2. Two are kept: that of the task named last, and the newest.
Rule 3. One that is lost or damaged is none; the rule begins anew on this device.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import Controlled

__all__ = ["DeviceMemory"]

log = logging.getLogger(__name__)

DIGEST = 32  # bytes before the content


class DeviceMemory:
    """A device's memories in a folder, made when the first is kept.

    Args:
        folder: Of this device alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, order: TaskOrder) -> bytes:
        """Memory that an order's rule goes on from; empty if there is none."""
        after = _after(order)
        if not after:
            return b""
        path = self._path(after)
        try:
            whole = path.read_bytes()
        except OSError:
            log.warning("memory of task %s is gone: it begins anew", after)
            return b""
        if hashlib.sha256(whole[DIGEST:]).digest() != whole[:DIGEST]:
            log.warning("%s is damaged: the device begins anew", path)
            return b""
        return whole[DIGEST:]

    def of(self, task_id: str) -> bytes:
        """Memory that a task left; empty where none is whole."""
        with contextlib.suppress(OSError):
            whole = self._path(task_id).read_bytes()
            if hashlib.sha256(whole[DIGEST:]).digest() == whole[:DIGEST]:
                return whole[DIGEST:]
        return b""

    def keep(self, order: TaskOrder, content: bytes) -> None:
        """Makes durable what its update of an order leaves to remember.

        Raises:
            CheckpointError: If the disk refuses.
        """
        new, old = self._path(order.id), self._folder
        replace_file(new, hashlib.sha256(content).digest() + content)
        if after := _after(order):
            old = self._path(after)
        for other in self._folder.glob("*.memory"):
            if other not in {new, old}:
                with contextlib.suppress(OSError):
                    other.unlink()

    def _path(self, task_id: str) -> Path:
        """A file by its task's digest: an id is the coordinator's text."""
        name = hashlib.sha256(task_id.encode()).hexdigest()[:32]
        return self._folder / f"{name}.memory"


def _after(order: TaskOrder) -> str:
    """The device's last task that counted, as an order names it; empty for none."""
    own = order.rule.after if isinstance(order.rule, Controlled) else ""
    return order.after or own
