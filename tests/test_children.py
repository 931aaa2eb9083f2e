"""Children run what is installed, whatever lies in the current folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.processes.children import ChildProcess
from edge_sdk.child_process import child_code, child_module, elsewhere, standalone
from edge_sdk.deploy.bound_command import run_leashed
from edge_sdk.device.doctor import programs
from edge_sdk.errors import TaskError
from edge_sdk.tasks.task import load_task

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge_sdk", "coordinator", "export", "device_profiles")
HOME = ROOT / "edge_sdk" / "child_process.py"
POISON = (
    "coordinator", "device_profiles", "export", "edge_sdk", "errors", "json", "msgspec",
    "multiprocessing", "numpy", "os", "pip", "psutil", "runpy", "selectors", "signal",
    "site", "socket", "subprocess", "torch", "typer", "types", "typing",
)  # fmt: skip
POOL = """
import pathlib
import numpy
from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.process_pool import process_pool
from edge_sdk.datasets.partition import save_partition
from edge_sdk.tasks.task import Examples
few = Examples(numpy.zeros((4, 1, 8, 8), numpy.uint8), numpy.arange(4))
save_partition(pathlib.Path("evaluation"), few, part="eval")
with process_pool(1, "digits", pathlib.Path("evaluation").resolve(), Engine("torch")):
    print("ready in", pathlib.Path.cwd().name)
"""


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: each of its modules leaves a mark when it is executed."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for name in POISON:
        mark = f"open({str(tmp_path / 'mark')!r}, 'a').write({name + ' '!r})\n"
        (folder / f"{name}.py").write_text(mark)
    monkeypatch.chdir(folder)
    return folder


def executed(poisoned: Path) -> str:
    mark = poisoned.with_name("mark")
    return mark.read_text() if mark.exists() else ""


def run(command: list[str], **env: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_poison_works(poisoned: Path) -> None:
    """Else none of the tests below could fail."""
    subprocess.run([sys.executable, "-c", "import psutil, typing"], check=False)
    assert "psutil" in executed(poisoned)


@pytest.mark.parametrize("env", [{}, {"PYTHONSAFEPATH": "1"}], ids=["plain", "safe"])
def test_a_child_never_executes_what_lies_in_the_current_folder(
    poisoned: Path, env: dict[str, str]
) -> None:
    assert "resume" in run(child_module("coordinator.cli", "--help"), **env)
    program = (
        "import psutil, typing, export, edge_sdk, sys;"
        "print(edge_sdk.__file__); print(sys.argv)"
    )
    said = run(child_code(program, "one", "-c"), **env)
    assert said.split("\n")[0] == str(ROOT / "edge_sdk" / "__init__.py")
    assert said.split("\n")[1] == "['-c', 'one', '-c']"
    assert executed(poisoned) == ""


def test_no_folder_of_ours_is_on_its_path_either() -> None:
    """A user's task may be called `errors` or `bundle`."""
    said = run(child_code("import sys; print(sys.path)"))
    assert str(ROOT / "edge_sdk") not in ast.literal_eval(said)
    assert "" not in ast.literal_eval(said)


def test_what_the_user_puts_on_pythonpath_still_counts(
    poisoned: Path, tmp_path: Path
) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "his_own.py").write_text("word = 'found'\n")
    program = child_code("import his_own; print(his_own.word)")
    assert run(program, PYTHONPATH=str(tmp_path / "extra")) == "found\n"
    assert executed(poisoned) == ""


def test_a_program_of_ours_that_is_bound_to_us_is_isolated_too(
    poisoned: Path, tmp_path: Path
) -> None:
    child = ChildProcess("flash-coordinator", ["--help"], tmp_path / "log")
    assert child.process.wait() == 0, (tmp_path / "log").read_text()
    assert executed(poisoned) == ""


def test_a_health_command_runs_in_the_folder_and_its_guard_does_not(
    poisoned: Path,
) -> None:
    code, said = run_leashed(("sh", "-c", "basename $PWD"), timeout_s=600)
    assert (code, said) == (0, "poisoned")
    assert executed(poisoned) == ""


def test_the_doctors_trials_are_isolated(poisoned: Path) -> None:
    code, said = programs._trial("import psutil, typing; print(psutil.__file__)")
    assert code == 0
    assert "poisoned" not in said
    assert executed(poisoned) == ""


def test_the_workers_of_a_simulation_are_isolated(poisoned: Path) -> None:
    assert run(child_code(POOL)) == "ready in poisoned\n"
    assert executed(poisoned) == ""


def test_a_library_starts_children_elsewhere_and_we_are_back_afterwards(
    poisoned: Path,
) -> None:
    with elsewhere():
        assert Path.cwd() == Path("/")
    assert Path.cwd() == poisoned


def test_a_script_that_needs_nothing_gets_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.flags.isolated, sys.argv[1:])\n")
    assert run(standalone(script, "x")) == "1 ['x']\n"


def test_the_users_task_is_found_in_the_current_folder_behind_what_is_installed(
    poisoned: Path,
) -> None:
    (poisoned / "blobs.py").write_text(
        "from edge_sdk.zoo.tasks.digits import task\nimport psutil\n"
    )
    program = "from edge_sdk.tasks.task import *; print(load_task('blobs:task').name)"
    assert run(child_code(program)) == "digits\n"
    assert executed(poisoned) == ""


@pytest.mark.parametrize("beside", ["", "sub"])
def test_a_task_with_the_name_of_an_installed_module_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    (tmp_path / beside).mkdir(exist_ok=True)
    (tmp_path / beside / "psutil.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(TaskError, match="has the name of an installed module") as why:
        load_task("psutil:task", beside=tmp_path / beside)
    assert "another name" in why.value.help


def test_one_function_builds_the_command_line_of_a_child() -> None:
    """Who needs this interpreter's path asks for a child, and gets an isolated one."""
    found = []
    for path in (p for name in PACKAGES for p in (ROOT / name).rglob("*.py")):
        if path == HOME:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = {
                getattr(node, "attr", None), getattr(node, "id", None),
                *(alias.name for alias in getattr(node, "names", ())
                  if isinstance(alias, ast.alias)),
            }  # fmt: skip
            literal = isinstance(node, ast.List | ast.Tuple) and node.elts
            first = node.elts[0] if literal else None  # type: ignore[attr-defined]
            word = first.value if isinstance(first, ast.Constant) else None
            if "executable" in names or word in ("python", "python3"):
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}")
    assert found == []


def test_nobody_else_has_a_library_start_interpreters() -> None:
    pools = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
        if "multiprocessing" in path.read_text() or "ProcessPool" in path.read_text()
    }
    assert pools == {"coordinator/simulation/workers/process_pool.py"}
