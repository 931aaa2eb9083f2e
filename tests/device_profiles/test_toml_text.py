from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Caps, boards, load_board, load_profile
from device_profiles.toml_text import to_toml

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
