"""Output of errors: two lines on stderr, or one of JSON, and an exit code."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from device_profiles import ProfileError
from edge_sdk.errors import EdgeError, SettingsError
from edge_sdk.terminal.exits import Exit, exit_of
from edge_sdk.terminal.logs import LogFormat
from edge_sdk.terminal.sanitize import plain
from edge_sdk.terminal.secrets import redacted
from edge_sdk.terminal.utf8 import echo

__all__ = ["on_stop", "rim"]

log = logging.getLogger(__name__)


@contextmanager
def rim(*, verbose: bool, log_format: LogFormat) -> Iterator[None]:
    """Ends the process with the exit code of whatever comes out of the block.

    Args:
        verbose: Whether errors show where they came from.
        log_format: How errors are told.
    """
    try:
        yield
        sys.stdout.flush()
    except (EdgeError, ProfileError) as error:
        if isinstance(error, ProfileError):
            error = SettingsError(str(error), remedy=error.help)
        _end(str(error), error.help, exit_of(error), log_format, trace=verbose)
    except BrokenPipeError:
        # Python flushes once more as it ends; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.PIPE)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - nobody after us hears of it
        said = f"{type(error).__name__}: {error}"
        _end(said, Exit.BUG.remedy, Exit.BUG, log_format, trace=True)


def _end(
    said: str, remedy: str, code: Exit, log_format: LogFormat, *, trace: bool
) -> None:
    if log_format == "json":
        log.error("%s", said, extra={"help": remedy, "exit": code}, exc_info=trace)
    else:
        if trace:
            told = plain(redacted(traceback.format_exc()), lines=True)
            echo(told, err=True, nl=False)
        # Whoever's words it quotes, a line of them does not begin like one of ours.
        said, remedy = (
            plain(redacted(text), lines=True).replace("\n", "\n  ")
            for text in (said, remedy)
        )
        echo(f"error: {said}\nhelp: {remedy}", err=True)
    sys.exit(code)


def on_stop(stop: Callable[[], None]) -> None:
    """Calls `stop` at the first SIGINT or SIGTERM; a second SIGINT interrupts.

    It is called in a thread of its own. The handler runs in the main thread wherever
    that is: inside `Event.wait` or `Queue.get` it holds a lock that `Event.set` and
    `Queue.put` want, and the process would never end.
    """

    def end(number: int) -> None:
        log.info("stopping (signal %d)", number)
        stop()

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _thread.start_new_thread(end, (number,))  # takes no lock of this process

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
