"""Every test that a document names is there; each threat and failure names one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# What the protocol was designed to survive.
MUST_SURVIVE = (
    "the broker restarts and has lost all its state",
    "the broker acknowledges messages and drops them",
    "the coordinator is killed before a commit, between commit and receipt, or while",
    "a second coordinator is started on the same folder",
    "two coordinators use one folder, where the file system does not lock",
    "two coordinators run, one on a copy of the other's folder",
    "a coordinator of an older epoch sends messages",
    "a device is killed while it fetches, trains or uploads",
    "messages to a device are duplicated, reordered or lost",
    "messages to the coordinator are duplicated, reordered or lost",
    "a device's update arrives after its round was closed",
    "two updates have one task id and different content",
    "a connection is half open",
    "clocks jump",
    "a packet is too large",
    "the disk of coordinator or device is full",
    "poisoned update: values are not finite",
    "poisoned update: wrong length",
    "poisoned update: wrong mask",
    "poisoned update: huge norm, huge example count",
    "a device publishes as another",
    "all devices reconnect at once",
    "a process is killed at any durable write",
    "the checker finds damage, also in open rounds",
    "the code sends a receipt before the commit",
)


def _rows(page: str) -> dict[str, str]:
    """First cell -> the rest, of every table row of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^\| (?!-)(.+?) \| (.+) \|$", text, re.MULTILINE)
    return {first: rest for first, rest in found if "---" not in first}


def _missing(text: str) -> Iterator[str]:
    """What a text names as a test and nobody has written."""
    written = "\n".join(p.read_text(encoding="utf-8") for p in TESTS.rglob("test_*.py"))
    for path, name in re.findall(r"\btests/([\w/]+\.py)(?:::(\w+))?", text):
        file = TESTS / path
        if not file.exists():
            yield f"tests/{path}"
        elif name and not _defines(file.read_text(encoding="utf-8"), name):
            yield f"tests/{path}::{name}"
    for name in re.findall(r"`(test_\w+(?:\.py)?)`", text):
        if name.endswith(".py"):
            if not list(TESTS.rglob(name)):
                yield name
        elif not _defines(written, name):
            yield name


def _defines(text: str, name: str) -> bool:
    return (
        re.search(rf"^ *((def|class) {name}\b|{name} = )", text, re.MULTILINE)
        is not None
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    assert list(_missing(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "named",
    [
        "tests/nowhere.py",
        "tests/docs/test_named_tests.py::test_of_nothing",
        "`test_nothing_at_all`",
        "`test_nowhere.py`",
    ],
)
def test_a_test_that_is_not_there_would_be_noticed(named: str) -> None:
    assert list(_missing(f"as {named} shows")) == [named.strip("`")]


@pytest.mark.parametrize("what", MUST_SURVIVE)
def test_what_must_survive_has_a_row_with_a_test(what: str) -> None:
    rows = [
        rest for cell, rest in _rows("survival.md").items() if cell.startswith(what)
    ]
    assert rows
    assert all("`tests/" in row for row in rows)


@pytest.mark.parametrize("section", ["Secure aggregation", "Who learns what"])
def test_every_row_of_who_learns_what_names_a_test(section: str) -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    part = page.split(f"\n## {section}\n")[1].split("\n##")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    told = [line for line in rows if not line.startswith(("| who |", "| who wants"))]
    assert len(told) >= 6
    for line in told:
        assert re.findall(r"`(test_\w+(?:\.py)?)`", line), line


def test_every_threat_names_a_test() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    part = page.split("## Threats")[1].split("\n## ")[0]
    threats = [line for line in part.splitlines() if line.startswith("| ")][1:]
    assert len(threats) > 20
    for line in threats:
        assert re.findall(r"`(test_\w+)`", line), line
