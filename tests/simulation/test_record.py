"""The metrics file: a line a round, and what a kill leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.simulation.record import RoundLog, RoundRecord, read_records
from edge_sdk.errors import StateError


def record(no: int, **changes: object) -> RoundRecord:
    base = dict.fromkeys(
        ("bytes_up", "bytes_down", "total_up", "total_down", "asked"), 3
    )
    times = dict.fromkeys(("rate", "clock_s", "wall_s"), 0.5)
    return RoundRecord(round=no, accepted=["a"], **base, **times, **changes)  # type: ignore[arg-type]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    journal = RoundLog(tmp_path)
    lines = [record(0), record(1, scores={"0.1": {"accuracy": 0.5}}, note="lost")]
    for line in lines:
        journal.add(line)
    assert read_records(tmp_path) == RoundLog(tmp_path).records == lines


@given(cut=st.integers(1, 60))
def test_a_line_cut_short_is_dropped_and_written_anew(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    journal = RoundLog(folder)
    for no in range(3):
        journal.add(record(no))
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = RoundLog(folder)
    assert [r.round for r in again.records] == [0, 1]
    again.add(record(2))
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    RoundLog(tmp_path).add(record(0))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round": "one"}\n')
    with pytest.raises(StateError, match=r"metrics\.jsonl, line 2"):
        read_records(tmp_path)
