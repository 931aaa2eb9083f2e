"""The floor plan's limits: names, folders and files of the product, layers."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge_sdk", "coordinator", "export", "device_profiles")
FILES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
FOLDER, FILE = 15, 300


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def classes(path: Path) -> Iterator[str]:
    """The public classes that a file defines."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def test_a_public_class_name_exists_once() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        for name in classes(path):
            found.setdefault(name, []).append(name_of(path))
    assert {n: homes for n, homes in found.items() if len(homes) > 1} == {}


def test_no_folder_has_many_modules() -> None:
    modules = (path for path in FILES if path.name != "__init__.py")
    count = Counter(name_of(path.parent) for path in modules)
    assert {f: n for f, n in count.items() if n > FOLDER} == {}


def test_no_file_is_long() -> None:
    count = {name_of(p): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {f: n for f, n in count.items() if n > FILE} == {}


def test_the_coordinator_has_few_rooms_on_few_floors() -> None:
    """The contract itself, exhaustive and without an exception, is lint-imports'."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (own,) = [c for c in contracts if c.get("containers") == ["coordinator"]]
    floors = [floor.split(" | ") for floor in own["layers"]]
    assert len(floors) <= 12
    assert sum(map(len, floors)) <= 20
    assert own["exhaustive"]
    assert "ignore_imports" not in own
