"""Modules, names and files of the tree that a page names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]
PRODUCT = r"(?:edge_sdk|coordinator|export|device_profiles)"
FOLDERS = r"(?:edge_sdk|coordinator|export|device_profiles|tests|examples|docs)"
FILE = re.compile(rf"(?<![\w./-]){FOLDERS}(?:/[\w.*-]+)+")
DOTTED = re.compile(rf"(?<![\w./-]){PRODUCT}(?:\.[A-Za-z_]\w*)+")
# Endings of files that are called as a package is: `coordinator.key`, `export.md`.
SUFFIXES = {"md", "py", "key", "pem", "jsonl", "Containerfile", "example"}
# What a reader makes.
MADE = (
    "examples/01_three_terminals/data",
    "docs/adr/NNNN-title.md",
    "coordinator/algorithms/methods/yours.py",
)


def text_of(page: Path) -> str:
    """A page, without the names of before in its tables of renamed things."""
    text = page.read_text("utf-8")
    head, cut, renamed = text.partition("\n## Renamed after")
    rows = [line.split("|")[-2] for line in renamed.splitlines() if "|" in line]
    return head + cut + "\n".join(rows)


def is_file(name: str) -> bool:
    """True for a file, a folder, a module without its ending, or a matching pattern."""
    if name.startswith(MADE):
        return True
    return any(ROOT.glob(name)) or (ROOT / f"{name}.py").is_file()


def is_module(name: str) -> bool:
    """True for a module, or for a name that its file defines or imports."""
    place, parts = ROOT, name.split(".")
    for at, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
            continue
        module = place / f"{part}.py"
        rest = parts[at + 1 :] if module.is_file() else parts[at:]
        source = module if module.is_file() else place / "__init__.py"
        said = source.read_text("utf-8") if source.is_file() else ""
        return not rest or bool(re.search(rf"\b{rest[0]}\b", said))
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_in_the_tree(page: Path) -> None:
    text = text_of(page)
    files = {found.rstrip(".") for found in FILE.findall(text)}
    modules = {n for n in DOTTED.findall(text) if n.split(".")[1] not in SUFFIXES}
    assert sorted(name for name in files if not is_file(name)) == []
    assert sorted(name for name in modules if not is_module(name)) == []


def test_what_is_not_in_the_tree_is_found() -> None:
    assert is_module("edge_sdk.sparse.mask.Mask")
    assert is_module("edge_sdk.Task")
    assert not is_module("edge_sdk.sparse.mask.Masque")
    assert not is_module("coordinator.inbox")
    assert is_file("edge_sdk/sparse/mask.py")
    assert not is_file("edge_sdk/sparse/masque.py")
