"""Every key that a settings file may have is documented, and no other."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import msgspec
import pytest

from edge_sdk.toml_file import load_toml

_spec = importlib.util.spec_from_file_location(
    "settings_page", Path(__file__).parent / "settings_page.py"
)
assert _spec is not None
assert _spec.loader is not None
written = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(written)
FILES, PAGE, page = written.FILES, written.PAGE, written.page
keys_of, tables = written.keys_of, written.tables

ROOT = PAGE.parents[1]
# Tables of others: pyproject's, and what only a profile's reader takes away.
ELSEWHERE = {"like"}


def test_the_page_is_what_the_types_say() -> None:
    """After a change of a key: python tests/docs/settings_page.py."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_key_has_a_meaning() -> None:
    for _, _, kind in FILES:
        for _, struct in tables(kind):
            fields = msgspec.structs.fields(struct)
            told = page()
            assert fields
            for field in fields:
                found = re.search(rf"\| `{field.encode_name}` \| .* \| (.+) \|", told)
                inner = f"{field.encode_name}]" in told  # a table of its own
                assert inner or (found and found[1].strip()), field.name


def shown() -> list[tuple[str, str]]:
    """Each TOML block of the documentation, and where it stands."""
    pages = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    found = []
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"```toml\n(.*?)```", text, re.S)):
            found.append((f"{path.relative_to(ROOT)} {number}", block))
    return found


@pytest.mark.parametrize(("where", "block"), shown(), ids=[w for w, _ in shown()])
def test_every_key_that_a_page_shows_exists(
    where: str, block: str, tmp_path: Path
) -> None:
    known = set().union(*(keys_of(kind) for _, _, kind in FILES)) | ELSEWHERE
    file = tmp_path / "shown.toml"
    file.write_text(block, encoding="utf-8")
    assert _keys(load_toml(file)) <= known, where


def _keys(value: object, at: str = "") -> set[str]:
    if isinstance(value, list):
        return set().union(*(_keys(one, at) for one in value))
    if not isinstance(value, dict) or at == "notes":  # whose keys are anybody's
        return set()
    return set(value).union(*(_keys(inner, key) for key, inner in value.items()))


def test_the_page_finds_every_type_that_a_toml_file_is_read_into() -> None:
    """A new settings file takes a place on the page."""
    read = {
        name
        for path in (*ROOT.glob("edge_sdk/**/*.py"), *ROOT.glob("coordinator/**/*.py"))
        for name in re.findall(
            r"load_settings\([^,()]+(?:\([^()]*\))?[^,()]*, (\w+)\)",
            path.read_text(encoding="utf-8"),
        )
    }
    assert read <= {kind.__name__ for _, _, kind in FILES}
    assert {"DeviceSettings", "RunSettings"} <= read, sys.path
