"""Decision records: the same three headings in each, and a number of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

RECORDS = sorted((Path(__file__).parents[2] / "docs/adr").glob("*.md"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_decision_has_a_title_and_three_headings(record: Path) -> None:
    headings = re.findall(r"^#+ .*$", record.read_text("utf-8"), flags=re.MULTILINE)
    assert headings[0].startswith(f"# {int(record.name[:4])}. ")
    assert headings[1:] == ["## Context", "## Decision", "## Consequences"]


def test_no_two_decisions_have_one_number() -> None:
    numbers = [record.name[:4] for record in RECORDS]
    assert len(set(numbers)) == len(numbers)
