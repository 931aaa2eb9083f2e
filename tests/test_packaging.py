"""What is installed, what each module offers, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge_sdk.toml_file import load_toml

ROOT = Path(__file__).parents[1]
NAMES = ["coordinator", "device_profiles", "edge_sdk", "export"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for name in NAMES
    for path in sorted((ROOT / name).rglob("*.py"))
}
# Programs that `python -m` runs in a bare child; they may not import the package.
BARE = {"coordinator.processes.bound_child"}
NO_DOORS = {"__future__", "typing", "edge_sdk.own_packages"}  # what an init itself uses


def offered(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            name = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if ast.unparse(name) == "__all__":
                found: list[str] = ast.literal_eval(node.value)
                return found
    return None


def definitions(tree: ast.Module) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n.name for n in tree.body if isinstance(n, kinds)]


@pytest.mark.parametrize("name", NAMES)
def test_each_import_name_is_ours(name: str) -> None:
    """The generic ones would hide, or be hidden by, somebody else's package."""
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__) == ROOT / name / "__init__.py"
    others = set(packages_distributions().get(name, [])) - {"flash-edge"}
    assert others == set()


def test_the_console_scripts_are_installed_and_load() -> None:
    scripts = {
        e.name: e
        for e in distribution("flash-edge").entry_points
        if e.group == "console_scripts"
    }
    assert set(scripts) == {"flash-edge", "flash-coordinator", "flash-export"}
    for entry in scripts.values():
        assert callable(entry.load())


def brought(name: str) -> set[str]:
    """Every distribution that comes with one, extras left out, where all are here."""
    found, waiting = set[str](), [name]
    while waiting:
        one = canonicalize_name(waiting.pop())
        if one in found:
            continue
        found.add(one)
        try:
            lines = distribution(one).requires or []
        except PackageNotFoundError:
            continue
        wanted = [Requirement(line) for line in lines]
        waiting += [
            w.name for w in wanted if not w.marker or w.marker.evaluate({"extra": ""})
        ]
    return found


def test_a_device_installs_nothing_that_only_an_operator_or_an_exporter_needs() -> None:
    """80 MB on a board; each of these would add 7 MB to a gigabyte."""
    operators = {"amqtt", "scipy", "starlette", "uvicorn", "matplotlib", "websockets"}
    exporters = {"onnx", "onnxruntime", "onnxscript", "ml-dtypes", "protobuf"}
    heavy = {"pydantic", "pydantic-core", "torch", "pillow", "scikit-learn", "uv"}
    device = brought("flash-edge")
    assert {"numpy", "cryptography", "pygments"} <= device  # a table that finds things
    assert device & (operators | exporters | heavy) == set()
    project = load_toml(ROOT / "pyproject.toml")["project"]
    own = {
        canonicalize_name(Requirement(line).name) for line in project["dependencies"]
    }
    assert {"numpy", "cryptography"} <= own
    assert own & {"psutil", "safetensors"} == set()  # 2 MB for a page of our own code


@pytest.mark.parametrize("name", sorted(set(SOURCES) - BARE))
def test_all_is_there_sorted_and_true(name: str) -> None:
    """A package that only holds modules offers nothing and needs no list."""
    tree = SOURCES[name]
    listed = offered(tree)
    if listed is None:
        assert [type(n) for n in tree.body] == [ast.Expr]  # its docstring
        return
    assert len(set(listed)) == len(listed)
    module = importlib.import_module(name)
    for one in listed:
        assert hasattr(module, one), one
        assert not one.startswith("_")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_what_a_neighbour_imports_is_offered(name: str) -> None:
    """Nobody reaches past `__all__` into another module."""
    beyond = []
    for node in ast.walk(SOURCES[name]):
        if not isinstance(node, ast.ImportFrom) or node.module not in SOURCES:
            continue
        listed = offered(SOURCES[node.module]) or []
        for alias in node.names:
            if f"{node.module}.{alias.name}" in SOURCES:
                continue
            if alias.name not in listed:
                beyond.append(f"{node.module}.{alias.name}")
    assert beyond == []


@pytest.mark.parametrize("name", [n for n in NAMES if offered(SOURCES[n])])
def test_a_packages_doors_are_what_its_init_imports(name: str) -> None:
    tree = SOURCES[name]
    # A name that is imported when it is first used is imported for the type checker.
    lazy = [n for n in tree.body if isinstance(n, ast.If)]
    imported = {
        a.asname or a.name
        for n in [*tree.body, *(inner for block in lazy for inner in block.body)]
        if isinstance(n, ast.ImportFrom) and n.module not in NO_DOORS
        for a in n.names
    }
    made = {n for n in definitions(tree) if n not in ("__getattr__", "__dir__")}
    assert set(offered(tree) or []) == imported | made


LIGHT = [
    "edge_sdk",
    "edge_sdk.errors",
    "edge_sdk.checkpoint",
    "edge_sdk.settings",
    "edge_sdk.storage.journal",
    "edge_sdk.session",
    "edge_sdk.sparse",
    "edge_sdk.wire.codec",
    "edge_sdk.wire.values",
    "edge_sdk.transport.memory",
    "edge_sdk.transport.mqtt",
    "device_profiles",
    "coordinator.rounds.state",
    "coordinator.rounds.cohort",
    "coordinator.algorithms.mean",
    "coordinator.algorithms",
    "coordinator.densities",
    "coordinator.rounds.validation",
    "coordinator.protocol.uploads",
    "coordinator.ledger",
    "coordinator.rounds.tasks",
    "coordinator.protocol.publisher",
    "coordinator.settings",
    "coordinator.views.terminal.status",
    "coordinator.checkpoints.models",
    "coordinator.broker.start",
    "edge_sdk.cli",
    "coordinator.cli",
    "export.cli",
]
# Decisions are values in, values out: nothing that waits, talks or keeps.
PURE = {
    "edge_sdk.sparse": {"asyncio", "socket", "sqlite3", "paho", "scipy"},
    "edge_sdk.session": {"asyncio", "socket", "sqlite3", "paho"},
    "coordinator.rounds.state": {"asyncio", "socket", "sqlite3", "paho", "numpy"},
    "coordinator.algorithms": {"sqlite3", "paho"},
}
LOADED = "import {}, sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"


def loaded_by(name: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADED.format(name)],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", LIGHT)
def test_importing_it_does_not_import_torch(name: str) -> None:
    """torch takes seconds and 200 MiB on a board."""
    heavy = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "amqtt"}
    loaded = loaded_by(name)
    assert loaded & heavy == set()
    assert loaded & PURE.get(name, set()) == set()


def test_the_tests_have_no_package_that_could_shadow_ours() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
