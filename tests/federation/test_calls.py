"""How much of the house one update passes through until it is durable."""

from __future__ import annotations

import runpy
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "bench_calls.py"


def test_an_update_is_durable_after_140_calls_in_25_files(tmp_path: Path) -> None:
    trace = runpy.run_path(str(BENCH))["traced_update"](tmp_path)
    assert ("coordinator/ledger/round_pages.py", "accept") in trace.calls
    assert trace.calls.total() <= 140, trace.files
    assert len(trace.files) <= 25, trace.files
