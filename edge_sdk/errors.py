"""Every error a person can meet, each with the remedy to try.

::

    EdgeError
    ├── SettingsError            a settings file is wrong: file, key, what was expected
    ├── TaskError                a task cannot be imported or cannot be trained sparsely
    ├── DataError                examples are missing, empty or not the task's
    ├── DependencyError          an optional package is not installed
    ├── SparsityError            a density, mask or CSR tensor that cannot be
    │   ├── DensityError         a density outside (0, 1] or below the unit floors
    │   └── MaskMismatchError    two masks that should be one are not
    ├── EngineError              the training engine cannot run what it was given
    ├── CheckpointError          a checkpoint is missing, damaged or of another model
    ├── StateError               a journal or ledger cannot be used as it is
    ├── IdentityError            a token, key or certificate is missing, refused or over
    ├── BrokerError              no MQTT broker can be reached or started
    ├── ProtocolError            a message broke the wire protocol
    │   ├── LocalProtocolError   we were about to send something wrong (our bug)
    │   └── RemoteProtocolError  a peer sent something wrong (dropped and counted)
    ├── RunError                 the federation cannot start or go on
    │   └── AlgorithmError       a slot of the algorithm failed, round after round
    └── ExportError              a model cannot be exported, or an export is not exact
"""

from __future__ import annotations

import errno
from typing import ClassVar

__all__ = [
    "AlgorithmError",
    "BrokerError",
    "CheckpointError",
    "DataError",
    "DensityError",
    "DependencyError",
    "EdgeError",
    "EngineError",
    "ExportError",
    "IdentityError",
    "LocalProtocolError",
    "MaskMismatchError",
    "ProtocolError",
    "RemoteProtocolError",
    "RunError",
    "SettingsError",
    "SparsityError",
    "StateError",
    "TaskError",
    "a_type",
    "disk_remedy",
    "two_sentences",
]


class EdgeError(Exception):
    """Base of all errors: what happened, and a remedy for the person at the keyboard.

    Args:
        message: What happened, to which device, round, file or key.
        remedy: What to do about it; the class has a default.
    """

    remedy: ClassVar[str] = "Run again with --verbose and read the last lines."

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.help = remedy or type(self).remedy


def two_sentences(what: object, remedy: str) -> str:
    """Join an error and its remedy, where one text has to hold both.

    Args:
        what: An error, or its words, with or without a full stop.
        remedy: What to do.

    Example:
        >>> two_sentences(DataError("no examples in /srv"), "Copy them there.")
        'no examples in /srv. Copy them there.'
    """
    said = str(what).rstrip()
    stop = "" if not said or said[-1] in ".!?:" else "."
    return f"{said}{stop} {remedy}".strip()


def a_type(value: object) -> str:
    """A value's type with its article, for messages; None as it is.

    Example:
        >>> a_type(3)
        'an int'
    """
    name = type(value).__name__
    return "None" if value is None else f"a{'n' * (name[0] in 'aeioAEIO')} {name}"


class SettingsError(EdgeError):
    """A settings file is wrong; the message names the file and the key's path."""

    remedy = "Correct the key in the file that the message names."


class TaskError(EdgeError):
    """A task cannot be imported, or its model has nothing a mask could act on."""

    remedy = "Name a task as package.module:object; see README, 'Your own model'."


class DataError(EdgeError):
    """Examples are missing, empty, damaged or not what the task expects."""

    remedy = "Put the examples where the message says, or correct the folder's path."


class DependencyError(EdgeError):
    """An optional package is needed here and is not installed."""

    remedy = "Install the extra that the message names."


class SparsityError(EdgeError):
    """A density, mask or CSR tensor that cannot be."""

    remedy = "Check the mask, density and layer shapes that the message names."


class DensityError(SparsityError):
    """A density outside (0, 1], or too low to keep one weight per unit."""

    remedy = "Choose a density between the smallest one the message names and 1."


class MaskMismatchError(SparsityError):
    """Two masks that should be the same are not."""

    remedy = "Restart the device: it fetches the mask of the current round."


class EngineError(EdgeError):
    """The training engine cannot run what it was given."""

    remedy = 'Set engine = "masked" in the device settings, and report the message.'


class CheckpointError(EdgeError):
    """A checkpoint is missing, damaged, or belongs to another model."""

    remedy = "Choose another checkpoint; every finished round leaves one."


class StateError(EdgeError):
    """A journal or ledger cannot be used as it is."""

    remedy = "Check that no other process uses the folder and that its disk has room."


class IdentityError(EdgeError):
    """A token, key or certificate is missing, refused, revoked or over."""

    remedy = "Ask the operator for a token, then run: flash-edge enroll TOKEN."


class BrokerError(EdgeError):
    """No MQTT broker can be reached or started."""

    remedy = (
        "Install one with `apt-get install mosquitto` or "
        "`pip install 'flash-edge[broker]'`, or name yours with --broker."
    )


class ProtocolError(EdgeError):
    """A message broke the wire protocol."""

    remedy = "Run the same version of flash-edge on coordinator and devices."


class LocalProtocolError(ProtocolError):
    """We were about to send something wrong: a bug of ours, never the peer's."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something wrong; it is dropped and counted."""


class RunError(EdgeError):
    """The federation cannot start, or cannot go on."""

    remedy = "Read `flash-coordinator status`, then `flash-coordinator resume`."


class AlgorithmError(RunError):
    """A slot of the algorithm raised, or gave what no round can use."""

    remedy = (
        "Mend the slot that the message names, then: flash-coordinator resume. The "
        "model is that of the last round that was completed."
    )


class ExportError(EdgeError):
    """A model cannot be exported, or what came out is not exact; nothing was kept."""

    remedy = "Read the figures in the message; the checkpoint itself is unharmed."


_ROOM = "Free some space on that disk, then give the same command again."
_OWNER = (
    "Let the user who gave the command own the folder and all in it (chown -R), or "
    "give the command as its owner."
)
_LIMIT = "Too many files are open: raise the limit with ulimit -n."
_KIND = "A file is where a folder should be, or the other way round."
_DISK = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "Mount it for writing, or name a folder on another disk. A card that "
    "was mounted read-only by itself is worn out: see dmesg.",
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.ENOENT: "Name a folder that is there, or make it first.",
    errno.EIO: "The disk or card fails (see dmesg and copy what can be read), or a "
    "limit on the size of files was met (ulimit -f).",
    errno.EMFILE: _LIMIT,
    errno.ENFILE: _LIMIT,
    errno.ENOTDIR: _KIND,
    errno.EISDIR: _KIND,
    errno.EEXIST: _KIND,
    errno.ENAMETOOLONG: "Name a folder with a shorter path.",
}


def disk_remedy(error: OSError) -> str:
    """The remedy against an error of the file system: room, a mode, another disk.

    Args:
        error: As the system raised it; its number decides.

    Example:
        >>> disk_remedy(OSError(errno.EROFS, "Read-only file system"))[:43]
        'Mount it for writing, or name a folder on a'
    """
    other = "Check the folder's permissions and the free space on its disk."
    return _DISK.get(error.errno or 0, other)
