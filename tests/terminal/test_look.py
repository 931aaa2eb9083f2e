"""One look: what every command of the three has, and what none lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from past import Past
from patience import patience

import coordinator.cli
import edge_sdk.cli
import export.cli

# Commands without --json, and why.
WITHOUT_JSON = {
    "flash-edge run": "goes on until it is stopped; its log has --log-format json",
    "flash-coordinator run": "the same; what it knows is `status --json`",
    "flash-coordinator resume": "the same",
    "flash-edge service show": "prints a systemd unit, which programs read as it is",
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
    assert ("--json" in options) == (name not in WITHOUT_JSON)
    assert command.help.rstrip().endswith(".")
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name} has no help"


def test_the_list_of_commands_without_json_names_real_ones() -> None:
    assert {name for name, _ in ALL} >= set(WITHOUT_JSON)


SETTINGS = """
task = "digits"
data = "digits"
devices = 3
densities = [0.4]
rounds = 1
cohort = 2
algorithm = "pdst"
training = { max_steps = 1 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run was, another was simulated, and a third may be begun."""
    found = tmp_path_factory.mktemp("look")
    past = Past(found / "past", devices=2)
    past.hello()
    past.begin(1)
    past.accept_all(1)
    past.end(1, accuracy=0.5)
    past.ledger.close()
    (found / "simulation.toml").write_text(SETTINGS)
    line = ["simulate", "sim", "--settings", "simulation.toml", "--workers", "1"]
    assert json_of("coordinator", line, found)["last"]["scores"]["0.4"]
    return found


def json_of(module: str, arguments: list[str], folder: Path) -> Any:
    module = module if "." in module else f"{module}.cli"
    line = [sys.executable, "-m", module, *arguments, "--json"]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("module", "arguments", "key"),
    [
        ("edge_sdk", ["boards"], "jetson_nano"),
        ("edge_sdk", ["model", "status", "nowhere"], "live"),
        ("coordinator", ["plan", "--task", "digits"], "round_s"),
        ("coordinator", ["status", "past"], "open"),
        ("coordinator", ["report", "past"], "report"),
        ("coordinator", ["track", "past", "--to", "tensorboard"], "rounds"),
        (
            "coordinator",
            ["init", "i", "--task", "mnist", "--evaluation", "."],
            "settings",
        ),
        ("coordinator", ["plot", "pictures", "sim"], "pictures"),
        ("examples.reproduce", ["flash-4", "tables", "--report"], 0),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_json_is_one_document_and_nothing_else(
    module: str, arguments: list[str], key: str | int, folder: Path
) -> None:
    found = json_of(module, arguments, folder)
    assert key in found if isinstance(key, str) else found[key]
