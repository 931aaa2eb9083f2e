from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Caps, boards, load_board, load_profile
from device_profiles.toml_text import to_toml, value_text
from edge_sdk.identity.enroll import settings_text
from edge_sdk.identity.exchange import Enrolled
from edge_sdk.toml_file import with_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.mark.parametrize("name", boards())
def test_every_board_reads_back_equal(name: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(to_toml(load_board(name)), encoding="utf-8")
    assert load_profile(path) == load_board(name)


@given(board=texts, key=texts, note=texts)
def test_whatever_a_sensor_or_a_dmi_table_says_reads_back(
    board: str, key: str, note: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = load_board("jetson_nano")
    odd = msgspec.structs.replace(
        base,
        board=board,
        watts=None,
        pool_m_s=1e-5,
        engine="sparse",
        caps=Caps(hours=("22:00-06:00",), metered=False, cpu_share=0.25),
        provenance=msgspec.structs.replace(base.provenance, notes={key: note}),
    )
    path = tmp_path_factory.mktemp("profiles") / "profile.toml"
    path.write_text(to_toml(odd), encoding="utf-8", newline="")
    assert load_profile(path) == odd


@pytest.mark.parametrize(
    "value",
    ["my 🏠/dätä", 'a "b" \\ c', "tab\tand\x7fdel\n", "", True, 0.1, ["🏠", 2], []],
)
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    assert tomllib.loads(f"key = {value_text(value)}\n") == {"key": value}


def test_a_home_with_an_emoji_is_written_by_every_command() -> None:
    answer = Enrolled("pi", "🏠", b"", b"", 1, "mqtts://h:1", "", "digits")
    text = settings_text(answer, identity="id", data="🏠/d", state="s", profile="p")
    assert tomllib.loads(text)["data"] == "🏠/d"
    changed = with_key('data = "x"\n', "data", "🏠\x7f")
    assert tomllib.loads(changed)["data"] == "🏠\x7f"
