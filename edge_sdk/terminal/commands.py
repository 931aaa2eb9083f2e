"""Options and error handling that all commands share."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edge_sdk.errors import SettingsError
from edge_sdk.terminal.error_exit import rim
from edge_sdk.terminal.logs import LogFormat, set_up

__all__ = ["LOG_FORMAT", "Json", "OutputOptions", "add", "look"]

PANEL = "Output"
LOG_FORMAT = "FLASH_EDGE_LOG_FORMAT"  # for processes that a command starts
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON.", rich_help_panel=PANEL)
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Facts, warnings and errors only; no live table.",
        rich_help_panel=PANEL,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Say more; show where errors come from.",
        rich_help_panel=PANEL,
    ),
]
Format = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        envvar=LOG_FORMAT,
        help="Log lines for people, or as JSON with run, round and device.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class OutputOptions:
    """A command's output options, as given on the command line.

    Attributes:
        verbose: Everything, and tracebacks.
        quiet: No remarks, no live table.
        log_format: ``text`` or ``json``.
    """

    verbose: bool = False
    quiet: bool = False
    log_format: LogFormat = "text"


_look = OutputOptions()


def look() -> OutputOptions:
    """The output options of the command that this process runs."""
    return _look


def add(
    app: typer.Typer, command: Callable[..., None], name: str | None = None
) -> None:
    """Adds a command to an app, with the options and the rim that all have.

    Args:
        app: Where it goes.
        command: Parses by its annotations, calls one function, prints.
        name: Its name, if not the function's.
    """
    app.command(name)(_dressed(command))


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Refuses numbers that are none: options are counts, seconds and shares.

    Raises:
        SettingsError: If one is not finite, or does not fit into 64 bits.
    """
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, float) and not math.isfinite(one):
                raise _no_option(name, f"{one} is no number")
            if isinstance(one, int) and not -(1 << 63) <= one < 1 << 63:
                raise _no_option(name, "it does not fit into 64 bits")


def _no_option(name: str, why: str) -> SettingsError:
    option = f"--{name.replace('_', '-')}"
    return SettingsError(
        f"{option}: {why}", remedy="Give a smaller number; see --help."
    )


def _dressed(command: Callable[..., None]) -> Callable[..., None]:
    own = inspect.signature(command, eval_str=True)
    ours = {
        "quiet": (Quiet, False),
        "verbose": (Verbose, False),
        "log_format": (Format, "text"),
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        *own.parameters.values(),
        *(
            inspect.Parameter(name, keyword, default=default, annotation=kind)
            for name, (kind, default) in ours.items()
        ),
    ]

    @functools.wraps(command)
    def dressed(
        *, quiet: bool, verbose: bool, log_format: LogFormat, **given: Any
    ) -> None:
        global _look  # noqa: PLW0603 - a process runs one command
        _look = OutputOptions(verbose, quiet, log_format)
        os.environ[LOG_FORMAT] = log_format  # what this command starts logs alike
        set_up(verbose=verbose, quiet=quiet, log_format=log_format)
        with rim(verbose=verbose, log_format=log_format):
            _check_numbers(given)
            command(**given)

    signature = own.replace(parameters=parameters)
    dressed.__signature__ = signature  # type: ignore[attr-defined]
    dressed.__annotations__ = {p.name: p.annotation for p in parameters}
    return dressed
