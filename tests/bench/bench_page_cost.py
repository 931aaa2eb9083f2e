"""Whether a round takes longer while somebody looks at the web page.

Run from the root of the project:
    python tests/bench/bench_page_cost.py [--devices N] [--repeats N] [--json FILE]

Real coordinator, mosquitto and page, light devices, rounds without training. Runs
without and with a page take turns. The page's reader asks for all facts of the run four
times a second, which is the most that a browser does. For idle cores only.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import tempfile
import threading
from pathlib import Path

import bench_protocol

from coordinator.page_access import token_of
from edge_sdk.json_text import to_json

ROUNDS, ASK_S = 15, 0.25


def main() -> None:
    """Prints medians; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(asked.repeats):
        for name, times in found.items():
            times.extend(_rounds(asked.devices, looked_at=name == "with"))
    for name, times in found.items():
        print(f"{name:8} the page: median {statistics.median(times):6.0f} ms a round")
    if asked.json:
        machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
        facts = {"devices": asked.devices, "round_ms": found, **machine}
        asked.json.write_text(to_json(facts, indent=2))


def _rounds(devices: int, *, looked_at: bool) -> list[float]:
    over, answers = threading.Event(), []
    before = set(Path(tempfile.gettempdir()).glob("flash-scale-*"))
    reader = threading.Thread(target=_read, args=(before, over, answers))
    if looked_at:
        reader.start()
    page = "127.0.0.1:0" if looked_at else ""
    row = bench_protocol._measure("digits", 0.2, devices, ROUNDS, page=page)
    over.set()
    if looked_at:
        reader.join()
        assert answers.count(200) > 5, "nobody looked"
    times: list[float] = row["round_ms"]
    return times


def _read(before: set[Path], over: threading.Event, answers: list[int]) -> None:
    """Asks the page of the run that has just begun until it is over."""
    while not over.wait(ASK_S):
        new = set(Path(tempfile.gettempdir()).glob("flash-scale-*")) - before
        for folder in new:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answers.append(_ask(folder))


def _ask(folder: Path) -> int:
    url = (folder / "page.url").read_text(encoding="ascii")
    port = int(url.strip().rstrip("/").rpartition(":")[2])
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    bearer = {"authorization": f"Bearer {token_of(folder)}"}
    link.request("GET", "/api/run", headers=bearer)
    answer = link.getresponse()
    answer.read()
    link.close()
    return answer.status


if __name__ == "__main__":
    main()
