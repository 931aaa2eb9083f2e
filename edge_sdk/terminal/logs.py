"""Log lines: for people, or one JSON object each with run, round and device.

What is true of a whole process (a device's name, the round in hand) is told once with
`log_from_now_on`; what is true of a few lines is told around them with `log_about`, or
for one with ``extra={"device": name}``. The nearest wins.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias

from edge_sdk.errors import EdgeError
from edge_sdk.json_text import to_json
from edge_sdk.terminal.sanitize import plain
from edge_sdk.terminal.secrets import redacted

__all__ = [
    "FACTS",
    "FILE_BYTES",
    "JsonLines",
    "LogFormat",
    "TextLines",
    "log_about",
    "log_from_now_on",
    "log_to_file",
    "not_on_stderr",
    "set_up",
]

LogFormat: TypeAlias = Literal["text", "json"]
FACTS = ("run", "round", "device")
FILE_BYTES = 8 << 20
PACKAGES = ("coordinator", "device_profiles", "edge_sdk", "export")
_process: dict[str, Any] = {}
_around: ContextVar[Mapping[str, Any]] = ContextVar("log_about", default={})  # noqa: B039


def log_from_now_on(**facts: object) -> None:
    """Facts that stand on every line of this process until they are told anew.

    Args:
        facts: Any of `FACTS`.
    """
    _process.update(facts)


def log_about(**facts: object) -> AbstractContextManager[None]:
    """Facts that stand on the lines of this thread inside the block.

    Args:
        facts: Any of `FACTS`.
    """
    return _About(facts)


class _About(AbstractContextManager[None]):
    """A generator in its place takes thrice the time, for each message of a device."""

    __slots__ = "_facts", "_token"

    def __init__(self, facts: dict[str, object]) -> None:
        self._facts = facts

    def __enter__(self) -> None:
        self._token = _around.set({**_around.get(), **self._facts})

    def __exit__(self, *_: object) -> None:
        _around.reset(self._token)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, run, round, device.

    What is not known is null. An error that ends the command also has `help` and
    `exit`; a traceback is in `traceback`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        near = {**_process, **_around.get(), **vars(record)}
        at = datetime.fromtimestamp(record.created, tz=timezone.utc)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **{fact: near.get(fact) for fact in FACTS},
            **{
                key: redacted(near[key]) if key == "help" else near[key]
                for key in ("help", "exit")
                if key in near
            },
        }
        if record.exc_info:
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return to_json(line)


class TextLines(logging.Formatter):
    """One line per event for people: clock, level, logger, message."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """The line without a traceback: one line, whatever a peer put into it."""
        return plain(redacted(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's
        """The traceback; its last line may be a peer's words."""
        return plain(redacted(super().formatException(ei)), lines=True)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at the time: a live table replaces it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The stream that lines go to: stderr as it is now."""
        return sys.stderr


class _File(RotatingFileHandler):
    """Lets a line go that cannot be written: a full disk is not the log's to tell."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's
        """Nothing; stderr has the line."""


def set_up(*, verbose: bool, quiet: bool, log_format: LogFormat) -> None:
    """Sends log lines to stderr; those of other packages only from warnings on.

    Args:
        verbose: All that our packages say, and more of others.
        quiet: Warnings and errors only.
        log_format: For people or for programs.
    """
    handler = _Stderr()
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


def log_to_file(path: Path) -> AbstractContextManager[None]:
    """Opens a file that gets every log line of the block too, as JSON.

    It is followed by a second one at 8 MiB, then the older one goes.

    Raises:
        OSError: If it cannot be opened.
    """
    handler = _File(path, maxBytes=FILE_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(JsonLines())
    return _writing(handler)


@contextmanager
def _writing(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except EdgeError as error:  # told to people at the rim, and here only to the file
        said = logging.makeLogRecord(
            {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR"}
        )
        said.msg, said.help = str(error), error.help
        handler.handle(said)
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):  # what a full disk did not take
            handler.close()


@contextmanager
def not_on_stderr(name: str) -> Iterator[None]:
    """Lines of a logger stay out of stderr inside the block; files get them."""
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, _Stderr)]

    def others(record: logging.LogRecord) -> bool:
        return record.name != name

    for handler in handlers:
        handler.addFilter(others)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(others)
