"""The rim of all three commands: errors as two lines, exit codes, log lines."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer

from edge_sdk.errors import EdgeError

__all__ = ["EXIT_ERROR", "EXIT_STOPPED", "on_stop", "run_app", "set_up_logging"]

EXIT_ERROR = 3  # an EdgeError; 2 is a wrong command line, as click has it
EXIT_STOPPED = 130  # stopped by a signal, as shells have it


def run_app(app: typer.Typer) -> None:
    """Runs a typer app; an error becomes two lines on stderr and `EXIT_ERROR`.

    With ``--verbose`` among the arguments the traceback is shown instead.
    """
    try:
        app()
    except EdgeError as error:
        if "--verbose" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        typer.echo(f"help: {error.help}", err=True)
        sys.exit(EXIT_ERROR)


def set_up_logging(*, verbose: bool) -> None:
    """One line per event on stderr, in UTC-free monotone form for journals."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


def on_stop(stop: Callable[[], None]) -> None:
    """Calls `stop` at the first SIGINT or SIGTERM; a second SIGINT interrupts."""

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.getLogger(__name__).info("stopping (signal %d)", number)
        stop()

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
