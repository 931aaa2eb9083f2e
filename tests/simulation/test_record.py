"""The metrics file: a line a round, and what a kill leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.simulation.record import RoundLog, RoundRecord, read_records
from coordinator.simulation.run import load_simulation
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


def test_a_folder_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """Files as the release wrote them, before gates, norms and partitions."""
    (tmp_path / "settings.json").write_text(
        '{"task":"digits","densities":[0.1],"data":"digits","folder":"","devices":20,'
        '"alpha":1.0,"rounds":3,"algorithm":"flash","cohort":5,"seed":1,'
        '"evaluate_every":1,"engine":"sparse","round_budget_s":12.0,"jitter":0.0,'
        '"dropout":0.0,"fleet":[],"training":{"epochs":1,"max_steps":0,"batch_size":8,'
        '"rate":0.2,"rate_end":0.02,"momentum":0.0,"weight_decay":0.0,"horizon":0,'
        '"lag":0,"power":1.0,"clip":0.0},"warm_up":{"devices":3,"epochs":3,'
        '"max_steps":0},"codec":{"up":"fp32","down":"fp32","zstd":false}}'
    )
    (tmp_path / "metrics.jsonl").write_text(
        '{"round":0,"accepted":["device-00000"],"asked":3,"rate":0.2,"bytes_up":1170,'
        '"bytes_down":28254,"total_up":1170,"total_down":28254,"clock_s":0.0,'
        '"wall_s":1.5,"loss":2.1974,"layers":{"0.1":{"conv2.weight":0.106771}},'
        '"seconds":{"device-00000":0.0}}\n'
    )
    found = load_simulation(tmp_path)
    assert found is not None
    assert (found.algorithm, found.training.rate, found.warm_up.devices) == (
        "flash",
        0.2,
        3,
    )
    assert found.engine == "program"  # as it is called now
    assert (found.gate.clip, found.partitions) == (0.0, False)
    (first,) = RoundLog(tmp_path).records
    assert (first.accepted, first.norms, first.unable) == (["device-00000"], {}, {})
