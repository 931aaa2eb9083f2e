"""Exit codes: one table, the same for all three commands.

A code keeps its meaning for ever; a new one takes a number that none ever had.
"""

from __future__ import annotations

from enum import IntEnum

from typing_extensions import Self

from edge_sdk import errors
from edge_sdk.errors import EdgeError

__all__ = ["LASTING", "Exit", "exit_of"]


class Exit(IntEnum):
    """An exit code.

    Attributes:
        meaning: What happened, in a sentence.
        remedy: What to do, or what a script should do.
        kind: The errors that end with it; None where no error does.
    """

    meaning: str
    remedy: str
    kind: type[EdgeError] | None

    def __new__(cls, code: int, meaning: str, by: type[EdgeError] | str) -> Self:
        """One line of the table: an error's kind has the remedy of that kind."""
        self = int.__new__(cls, code)
        self._value_, self.meaning = code, meaning
        self.kind = None if isinstance(by, str) else by
        self.remedy = by if isinstance(by, str) else by.remedy
        return self

    DONE = (
        0,
        "It did what was asked; also a run or a device that was told to stop.",
        "Nothing to do.",
    )
    FOUND = (
        1,
        "A check ran to its end and found something to mend.",
        "Read the lines that begin with `problem`.",
    )
    USAGE = (
        2,
        "The command line is wrong: no such command, option or value.",
        "Read what --help says of the command.",
    )
    ERROR = 3, "An error that none of the others names.", EdgeError
    SETTINGS = 10, "A settings file, or a value given, is wrong.", errors.SettingsError
    TASK = (
        11,
        "The task cannot be imported or cannot be trained sparsely.",
        errors.TaskError,
    )
    DATA = 12, "Examples are missing, empty or damaged.", errors.DataError
    DEPENDENCY = 13, "An optional package is not installed.", errors.DependencyError
    SPARSITY = 14, "A density or a mask that cannot be.", errors.SparsityError
    ENGINE = 15, "The training engine cannot run what it was given.", errors.EngineError
    CHECKPOINT = (
        16,
        "A checkpoint is missing or damaged, or a file cannot be written.",
        errors.CheckpointError,
    )
    STATE = (
        17,
        "A run's or a device's folder cannot be used as it is.",
        errors.StateError,
    )
    IDENTITY = (
        18,
        "A token, key or certificate is missing, refused, revoked or over.",
        errors.IdentityError,
    )
    BROKER = 19, "No MQTT broker can be reached or started.", errors.BrokerError
    PROTOCOL = 20, "A message broke the wire protocol.", errors.ProtocolError
    RUN = 21, "The federation cannot start, or cannot go on.", errors.RunError
    EXPORT = (
        22,
        "A model cannot be exported, or an export is not exact.",
        errors.ExportError,
    )
    BUG = (
        70,
        "An error that nobody foresaw: a bug of flash-edge, or of your task.",
        "Report it with the lines above the message.",
    )
    INTERRUPTED = (
        130,
        "Ctrl-C, before the command was done.",
        "Finished rounds are kept; the same command may be given again.",
    )
    PIPE = (
        141,
        "Whoever read the output stopped reading.",
        "Nothing to do; it comes of `| head`.",
    )


# Ends that come again at every start until somebody mends what is wrong: a service that
# starts the command again stops here, and is shown as failed.
LASTING = (
    Exit.USAGE,
    Exit.SETTINGS,
    Exit.TASK,
    Exit.DEPENDENCY,
    Exit.IDENTITY,
    Exit.PROTOCOL,
)


def exit_of(error: EdgeError) -> Exit:
    """The code that an error ends a command with: its own kind's, or the next above.

    Example:
        >>> exit_of(errors.DensityError("density 2"))
        <Exit.SPARSITY: 14>
    """
    codes = {code.kind: code for code in Exit if code.kind is not None}
    return next(codes[kind] for kind in type(error).__mro__ if kind in codes)
