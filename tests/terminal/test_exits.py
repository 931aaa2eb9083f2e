"""How commands end: one table, and each of its codes out of a real process."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import patience, waited

from edge_sdk import errors
from edge_sdk.errors import EdgeError
from edge_sdk.terminal import LASTING, Exit, exit_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "exit-codes.md"
PACKAGES = ("coordinator", "device_profiles", "edge_sdk", "export")
# Programs of their own, that a command starts: only the command sees how they end.
OWN_PROGRAMS = {
    "coordinator/processes/bound_child.py",
    "coordinator/simulation/workers/process_pool.py",
    "edge_sdk/kernels/build.py",
    "edge_sdk/deploy/bound_command.py",
    "export/measure/timing_child.py",
}
TASK = """
import pathlib, time
from edge_sdk import errors
from edge_sdk.tasks.task import load_task
import dataclasses

def data(folder):
    {what}

task = dataclasses.replace(load_task("digits"), train_data=data, eval_data=data)
"""
SETTINGS = """name = "pi-1"
federation = "home"
broker = "mqtt://127.0.0.1:1"
task = "{task}"
data = "."
state = "state"
profile = "raspberry_pi_4b_4gb"
"""
RUN = """federation = "home"
task = "digits"
evaluation = "."
densities = [0.00001]
rounds = 1
"""
# A fault of ours, not of a task: nothing that a user writes can provoke one.
BROKEN = (
    "from coordinator.simulation import command; command.settings_from = None\n"
    "from coordinator.cli import main; main()"
)
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None\nfrom coordinator.cli import main; main()"
)


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"{module}.cli", *map(str, arguments)]


def ended(line: list[str], folder: Path) -> int:
    done = subprocess.run(
        line,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    said = done.stdout + done.stderr
    if done.returncode not in (Exit.DONE, Exit.FOUND, Exit.USAGE):
        assert re.search(r"^error: .+\nhelp: .+\n\Z", said, re.MULTILINE), said
    return done.returncode


def profiled(folder: Path, what: str) -> list[str]:
    """`flash-edge profile` of a task of the user's own, whose data does something."""
    (folder / "own.py").write_text(TASK.format(what=what))
    (folder / "pi-1.toml").write_text(SETTINGS.format(task="own:task"))
    return command("edge_sdk", "profile", "pi-1.toml")


def raising(what: str) -> Callable[[Path], int]:
    return lambda folder: ended(profiled(folder, f"raise {what}"), folder)


def with_settings(verb: str) -> Callable[[Path], int]:
    def end(folder: Path) -> int:
        (folder / "pi-1.toml").write_text(SETTINGS.format(task="digits"))
        return ended(command("edge_sdk", verb, "pi-1.toml"), folder)

    return end


def plain(module: str, *arguments: str) -> Callable[[Path], int]:
    return lambda folder: ended(command(module, *arguments), folder)


def too_sparse(folder: Path) -> int:
    (folder / "run.toml").write_text(RUN)
    return ended(command("coordinator", "run", "."), folder)


def without_a_broker(folder: Path) -> int:
    (folder / "pi-1.toml").write_text(
        SETTINGS.format(task="digits").replace("mqtt://", "mqtt:/")
    )
    return ended(command("edge_sdk", "run", "pi-1.toml"), folder)


def interrupted(folder: Path) -> int:
    # A shell starts what it puts into the background with SIGINT ignored.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    what = f"{heard}; pathlib.Path('here').touch(); time.sleep(86400)"
    process = subprocess.Popen(
        profiled(folder, what), cwd=folder, stderr=subprocess.DEVNULL
    )

    def trains() -> bool:
        assert process.poll() is None
        return (folder / "here").exists()

    assert waited(trains, 60)
    process.send_signal(signal.SIGINT)
    return process.wait(patience(60))


def unread(folder: Path) -> int:
    process = subprocess.Popen(
        command("edge_sdk", "boards", "--json"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()  # long before it can have written anything
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    return process.wait(patience(60))


WAYS: dict[Exit, Callable[[Path], int]] = {
    Exit.DONE: plain("edge_sdk", "boards"),
    Exit.FOUND: with_settings("doctor"),
    Exit.USAGE: plain("export", "biuld"),
    Exit.ERROR: raising("errors.EdgeError('unheard of')"),
    Exit.SETTINGS: plain("edge_sdk", "run", "none.toml"),
    Exit.TASK: plain("coordinator", "plan", "--task", "nowhere:task"),
    Exit.DATA: with_settings("profile"),
    Exit.DEPENDENCY: lambda folder: ended(
        [sys.executable, "-c", WITHOUT_TORCH, "simulate", "run"], folder
    ),
    Exit.SPARSITY: too_sparse,
    Exit.ENGINE: raising("errors.EngineError('not this model')"),
    Exit.CHECKPOINT: plain("export", "build", "none.safetensors"),
    Exit.STATE: plain("coordinator", "status", "nowhere"),
    Exit.IDENTITY: plain("edge_sdk", "enroll", "not-a-token"),
    Exit.BROKER: without_a_broker,
    Exit.PROTOCOL: raising("errors.LocalProtocolError('too large')"),
    Exit.RUN: raising("errors.RunError('nobody can take part')"),
    Exit.EXPORT: plain("export", "verify", "model.onnx"),
    Exit.BUG: lambda folder: ended(
        [sys.executable, "-c", BROKEN, "simulate", "run", "--preset", "digits"], folder
    ),
    Exit.INTERRUPTED: interrupted,
    Exit.PIPE: unread,
}


@pytest.mark.parametrize("code", Exit, ids=lambda code: code.name)
def test_a_real_process_ends_with_each_code(code: Exit, tmp_path: Path) -> None:
    assert WAYS[code](tmp_path) == code


def test_every_kind_of_error_has_a_code_and_no_two_share_one() -> None:
    kinds = {code.kind for code in Exit if code.kind}
    assert kinds == {EdgeError, *own_kinds()}
    assert len(set(Exit)) == len(Exit.__members__)
    for kind in own_kinds():
        assert exit_of(kind("x")).kind is kind
    assert exit_of(errors.RemoteProtocolError("x")) is Exit.PROTOCOL


def own_kinds() -> set[type[EdgeError]]:
    return {k for k in EdgeError.__subclasses__() if k.__module__ == errors.__name__}


def test_the_page_has_one_heading_per_code_and_says_what_the_table_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^## (\d+) (\w+)$", text, re.MULTILINE)
    assert headings == [(str(int(code)), code.name) for code in Exit]
    for code in Exit:
        part = text.split(f"\n## {int(code)} {code.name}\n")[1].split("\n## ")[0]
        flat = " ".join(part.split())
        assert code.meaning in flat
        assert " ".join(code.remedy.split()) in flat


def test_the_page_says_after_which_codes_a_service_is_not_started_again() -> None:
    text = PAGE.read_text(encoding="utf-8")
    flat = " ".join(text.split())
    (said,) = re.findall(r"after every exit except (.+), which would only occur", flat)
    assert re.split(r", | and ", said) == [f"{int(c)} {c.name}" for c in LASTING]


def test_the_command_prints_the_table() -> None:
    for module in ("coordinator", "edge_sdk", "export"):
        line = command(module, "exit-codes", "--json")
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert [row["code"] for row in json.loads(done.stdout)] == list(map(int, Exit))


def endings() -> Iterator[tuple[str, ast.expr | None]]:
    """Every place in the packages that ends a process, with what it ends it with."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    *("sys.exit", "os._exit", "exit", "quit", "SystemExit"),
                    *("typer.Exit", "Exit", "Abort", "typer.Abort"),
                ):
                    yield name, node.args[0] if node.args else None


def test_every_end_in_the_code_is_one_of_the_table() -> None:
    found = [(name, what) for name, what in endings() if name not in OWN_PROGRAMS]
    said = {ast.unparse(what) for _, what in found if what is not None}
    by_name = {f"Exit.{code.name}" for code in Exit}
    assert said - by_name <= {"code"}  # the rim's own, that `exit_of` or a caller gave
    assert all(
        name == "edge_sdk/terminal/error_exit.py" for name, w in found if named(w)
    )
    assert {name for name, _ in endings()} >= OWN_PROGRAMS


def named(what: ast.expr | None) -> bool:
    return what is None or ast.unparse(what) == "code"


def test_an_error_in_json_is_one_line_with_its_remedy_and_code(tmp_path: Path) -> None:
    line = command("coordinator", "status", "none", "--log-format", "json")
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (only,) = done.stderr.splitlines()
    said = json.loads(only)
    assert said["level"] == "error"
    assert said["message"] == "none holds no run yet"
    assert said["help"].startswith("Start it with")
    assert said["exit"] == done.returncode == Exit.STATE


def test_verbose_shows_where_an_error_came_from_and_keeps_its_code(
    tmp_path: Path,
) -> None:
    line = command("coordinator", "status", "none", "--verbose")
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Traceback" in done.stderr
    assert done.returncode == Exit.STATE


def test_a_signal_ends_a_process_that_holds_the_lock_of_what_it_waits_for() -> None:
    """The handler interrupts the main thread anywhere, also inside `Event.wait`."""
    script = (
        "import os, signal, threading\n"
        "from edge_sdk.terminal.error_exit import on_stop\n"
        "over = threading.Event()\n"
        "on_stop(over.set)\n"
        "with over._cond:\n"  # as wait() does
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    for _ in range(1000): pass\n"
        "over.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=patience(300), check=False
    )
    assert done.returncode == 0
