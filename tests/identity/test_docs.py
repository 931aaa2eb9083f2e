from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"


def test_every_threat_names_tests_that_exist() -> None:
    rows = PAGE.read_text(encoding="utf-8").split("## Threats")[1].split("\n## ")[0]
    threats = [line for line in rows.splitlines() if line.startswith("| ")][1:]
    written = "\n".join(p.read_text(encoding="utf-8") for p in TESTS.rglob("test_*.py"))
    assert len(threats) > 20
    for line in threats:
        named = re.findall(r"`(test_\w+)`", line)
        assert named, line
        for name in named:
            assert f"def {name}(" in written, name
