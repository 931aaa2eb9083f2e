"""A docstring's first word names its subject or says what happens."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("coordinator", "device_profiles", "edge_sdk", "export")
RIDDLES = frozenset(
    "It Its That These They This Those Which Who Whoever What When Where Whether Why "  # noqa: SIM905
    "How Nobody Somebody".split()
)

Described = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def riddles(source: str) -> Iterator[str]:
    """Docstrings that begin with a pronoun or a question word, as "line: text"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Described):
            said = (ast.get_docstring(node) or "").split()
            if said and said[0].strip(".,:;") in RIDDLES:
                line = getattr(node, "lineno", 1)
                yield f"{line}: {' '.join(said[:8])}"


def test_a_docstring_that_begins_with_a_riddle_is_found() -> None:
    source = '"""Values."""\ndef one():\n    """Whether it is so."""\n'
    assert list(riddles(source)) == ["2: Whether it is so."]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_docstring_names_its_subject_first(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{text}"
        for path in files
        for text in riddles(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)
