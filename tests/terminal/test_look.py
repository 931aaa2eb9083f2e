"""One look: what every command of the three has, and what none lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

import coordinator.cli
import edge_sdk.cli
import export.cli

# Commands that print no facts: they do something, and say in a line that they did.
SILENT = {
    *("flash-edge run", "flash-edge bundle"),
    *("flash-edge service install", "flash-edge service show"),
    *("flash-edge model switch", "flash-edge model rollback"),
    *("flash-coordinator init", "flash-coordinator run", "flash-coordinator resume"),
    *("flash-coordinator revoke", "flash-coordinator rotate"),
    *("flash-coordinator page", "flash-coordinator report", "flash-coordinator track"),
    *("flash-coordinator demo", "flash-coordinator simulate"),
    *("flash-coordinator reproduce", "flash-coordinator plot"),
}


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for inner, one in command.commands.items():
            yield from commands(f"{name} {inner}", one)
    else:
        yield name, command


ALL = [
    found
    for name, module in (
        ("flash-edge", edge_sdk.cli),
        ("flash-coordinator", coordinator.cli),
        ("flash-export", export.cli),
    )
    for found in commands(name, typer.main.get_command(module.app))
]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_takes_the_options_of_the_look_and_explains_all_its_own(
    name: str, command: Any
) -> None:
    options = {flag for p in command.params for flag in p.opts}
    assert {"--quiet", "-q", "--verbose", "-v", "--log-format"} <= options
    assert ("--json" in options) == (name not in SILENT)
    assert command.help.rstrip().endswith(".")
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name} has no help"


def test_the_list_of_silent_commands_names_real_ones() -> None:
    assert {name for name, _ in ALL} >= SILENT


@pytest.mark.parametrize(
    ("module", "arguments", "key"),
    [
        ("edge_sdk", ["boards"], "jetson_nano"),
        ("edge_sdk", ["model", "status", "nowhere"], "live"),
        ("coordinator", ["plan", "--task", "digits"], "round_s"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_json_is_one_document_and_nothing_else(
    module: str, arguments: list[str], key: str
) -> None:
    line = [sys.executable, "-m", f"{module}.cli", *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=90)
    assert key in json.loads(done.stdout)
    assert done.stderr == ""
