"""The device's durable state: what it promised and still has to deliver."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from edge_sdk.checkpoint import remove_drafts, replace_file
from edge_sdk.errors import CheckpointError, RemoteProtocolError, StateError
from edge_sdk.private_files import make_private
from edge_sdk.storage.blobs import BlobFolder
from edge_sdk.storage.memory import DeviceMemory
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import Offer, TaskOrder
from edge_sdk.wire.parts import unpack_own

if os.name == "posix":
    import fcntl

__all__ = ["KEEP_FINISHED", "Journal", "JournalRecord", "read_journal"]

JOURNAL = "journal.msgpack"
KEEP_FINISHED = 64  # receipts and updates remembered, newest last


class JournalRecord(msgspec.Struct, frozen=True):
    """One device's state; replaced as a whole.

    Attributes:
        epoch: The newest coordinator epoch heard.
        order: The task in hand, if any.
        offer: Its packed update, if training is done; the payload lies in the outbox.
        sent: Bytes sent on the wire in earlier lives.
        received: Bytes received on the wire in earlier lives.
        finished: (task id, verdict) of the latest receipts.
        packed: (task id, SHA-256) of the latest updates made here: with the verdicts,
            the device's own account of which models it is in.
        day: The local date that bytes were last counted on.
        before_day: Bytes sent and received before that day began.
        heard: Boot and highest sequence number of the coordinator's messages: after a
            restart, what came before is not new.
        announced: The same of its announcements.
    """

    epoch: int = 0
    order: TaskOrder | None = None
    offer: Offer | None = None
    sent: int = 0
    received: int = 0
    finished: list[tuple[str, str]] = []
    packed: list[tuple[str, bytes]] = []
    day: str = ""
    before_day: int = 0
    # Absent where nothing was heard: older bytes stay as they were.
    heard: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    announced: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET


def read_journal(folder: Path) -> JournalRecord:
    """The journal in a device's state folder, also while an agent has it.

    Raises:
        StateError: If it is damaged.
    """
    path = folder / JOURNAL
    try:
        return unpack(path.read_bytes(), JournalRecord)
    except FileNotFoundError:
        return JournalRecord()
    except (OSError, RemoteProtocolError) as error:
        raise StateError(
            f"the journal {path} cannot be read: {error}",
            remedy="Move the state folder away; the device then starts afresh.",
        ) from error


class Journal:
    """The journal in a device's state folder; one process at a time.

    Attributes:
        record: What is durable.
        blobs: Models fetched, which may vanish at any time.
        memory: What local rules go on from, by task.
        secure: File of the secrets of the latest secure round.

    Raises:
        StateError: If another process holds the folder, or the journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._outbox = folder / JOURNAL, folder / "outbox.bin"
        self.blobs = BlobFolder(folder / "blobs")
        self.memory = DeviceMemory(folder / "memory")
        self.secure = folder / "secure.msgpack"
        try:
            make_private(folder)
            self._lock = (folder / "lock").open("w")
        except OSError as error:
            raise StateError(f"state folder {folder} is not usable: {error}") from error
        try:
            if os.name == "posix":
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.record = read_journal(folder)
            remove_drafts(folder, folder / "memory")
        except BlockingIOError as error:
            self._lock.close()
            raise StateError(
                f"another flash-edge process uses the state folder {folder}",
                remedy="Stop it, or give this device its own state folder.",
            ) from error
        except BaseException:
            self._lock.close()
            raise

    def stash(self, payload: bytes) -> None:
        """Puts a packed update into the outbox, durably, before it is promised.

        Raises:
            StateError: If the disk refuses, for example because it is full.
        """
        self._write(self._outbox, payload)

    def keep(self, record: JournalRecord) -> None:
        """Makes a record durable; one without an offer empties the outbox.

        Raises:
            StateError: If the disk refuses.
        """
        if record != self.record:
            self._write(self._path, pack(record))
        self.record = record
        if record.offer is None:
            with contextlib.suppress(OSError):
                self._outbox.unlink(missing_ok=True)

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        try:
            replace_file(path, content)
        except CheckpointError as error:
            raise StateError(str(error), remedy=error.help) from error

    def payload(self) -> bytes:
        """The packed update in the outbox.

        Raises:
            StateError: If it is gone.
        """
        try:
            return self._outbox.read_bytes()
        except OSError as error:
            raise StateError(f"the outbox {self._outbox} is gone: {error}") from error

    def accepted(self, task: str) -> bool:
        """Return whether the update of a task is known to have been accepted."""
        return (task, "accepted") in self.record.finished

    def own(self) -> dict[str, NDArray[Any]]:
        """Personal values after this device's last task that counted; none without."""
        for task, verdict in reversed(self.record.finished):
            kept = self.memory.of(task) if verdict == "accepted" else b""
            with contextlib.suppress(RemoteProtocolError):  # of a rule alone
                if kept:
                    return unpack_own(kept)[0]
        return {}

    def close(self) -> None:
        """Release the folder for another process."""
        self._lock.close()
