"""What `import edge_sdk` and `import coordinator` give, and what they cost."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge_sdk", "coordinator")
HEAVY = ("torch", "numpy", "msgspec", "paho", "cryptography")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_is_listed(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_a_type_checker_sees_the_same_objects(package: str) -> None:
    """Each import for the type checker is the name, and the object, of a first use."""
    module = importlib.import_module(package)
    tree = ast.parse((ROOT / package / "__init__.py").read_text("utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(module.__all__)
    for name, (home, attribute) in seen.items():
        assert home is not None
        given = getattr(importlib.import_module(home), attribute)
        assert getattr(module, name) is given, name


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    code = f"import {package}, sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert said.stdout.split() == []


def test_what_a_task_is_made_of_needs_no_torch() -> None:
    code = (
        "from edge_sdk import Examples, Task, load_task, TaskError, Mask, CsrTensor;"
        "import sys; print('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "False"


def test_each_package_says_what_it_is_for_and_which_names_it_gives() -> None:
    for home in ("edge_sdk", "coordinator", "export", "device_profiles"):
        for path in sorted((ROOT / home).rglob("__init__.py")):
            tree = ast.parse(path.read_text("utf-8"))
            named = path.relative_to(ROOT).as_posix()
            first = (ast.get_docstring(tree) or "").split("\n\n")[0]
            assert first.endswith("."), f"{named} begins with no sentence"
            assert "__all__" in {
                name.id for name in ast.walk(tree) if isinstance(name, ast.Name)
            }, f"{named} lists no names"


def test_the_place_that_a_module_s_export_had_in_0_1_0_still_gives_it() -> None:
    import export.modules
    import export.rebuild

    assert export.rebuild.from_module is export.modules.from_module
    with pytest.raises(AttributeError, match="no_such_name"):
        export.rebuild.no_such_name  # noqa: B018
