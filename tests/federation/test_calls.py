"""How much of the house one update passes through until it is durable."""

from __future__ import annotations

import runpy
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "bench_calls.py"


def test_an_update_is_durable_after_120_calls_in_20_files(tmp_path: Path) -> None:
    trace = runpy.run_path(str(BENCH))["traced_update"](tmp_path)
    assert ("coordinator/ledger/round_pages.py", "accept") in trace.calls
    assert trace.calls.total() <= 120, trace.files
    assert len(trace.files) <= 20, trace.files
