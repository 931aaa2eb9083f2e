"""The page of algorithms names each one, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from coordinator.algorithms import ALGORITHMS

PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"


def rows() -> list[list[str]]:
    lines = PAGE.read_text("utf-8").splitlines()
    found = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    return [row for row in found if set(row[0]) != {"-"}]


def test_every_algorithm_has_a_row_with_its_source_and_what_differs() -> None:
    tables = [row for row in rows() if len(row) == 3]
    named = [name for row in tables for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(named) == sorted(ALGORITHMS)
    for name, source, differs in tables:
        assert source.strip(), name
        assert differs.strip(), name


def test_what_the_page_advises_is_there() -> None:
    cells = [row[1] for row in rows() if len(row) == 2]
    advised = [name for cell in cells for name in re.findall(r"`([a-z-]+)`", cell)]
    assert advised
    assert set(advised) <= {*ALGORITHMS}
