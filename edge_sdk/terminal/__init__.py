"""Decides how all three commands look, what they log and how they end."""

from edge_sdk.terminal.commands import Json, OutputOptions, add, look
from edge_sdk.terminal.error_exit import on_stop
from edge_sdk.terminal.exits import LASTING, Exit, exit_of
from edge_sdk.terminal.logs import (
    log_about,
    log_from_now_on,
    log_to_file,
    not_on_stderr,
)
from edge_sdk.terminal.output import at_terminal, exit_codes, say, show, tell, width
from edge_sdk.terminal.program import run_program
from edge_sdk.terminal.sanitize import plain
from edge_sdk.terminal.secrets import given_secret, hide, redacted

__all__ = [
    "LASTING",
    "Exit",
    "Json",
    "OutputOptions",
    "add",
    "at_terminal",
    "exit_codes",
    "exit_of",
    "given_secret",
    "hide",
    "log_about",
    "log_from_now_on",
    "log_to_file",
    "look",
    "not_on_stderr",
    "on_stop",
    "plain",
    "redacted",
    "run_program",
    "say",
    "show",
    "tell",
    "width",
]
