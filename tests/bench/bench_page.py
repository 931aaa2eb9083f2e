"""The web page with a large fleet, in a real browser: first load, an update, memory.

Run from the root of the project:
    python tests/bench/bench_page.py [--devices 1000] [--json FILE]

The run's past (rounds, updates of every device) is written through the real ledger; the
page is served by a process of its own, as beside a coordinator.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "coordinator" / "page"))
from conftest import Page, Past

from edge_sdk.json_text import to_json

ROUNDS, LOADS, UPDATES = 20, 5, 15
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-quic"]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        past = Past(Path(folder) / "run", asked.devices)
        past.hello()
        for no in range(1, ROUNDS + 1):
            past.begin(no)
            past.accept_all(no)
            past.end(no, accuracy=0.5 + no / 100)
        past.begin(ROUNDS + 1)
        page = Page(past.folder)
        try:
            found = _measure(past, page)
        finally:
            page.close()
            past.ledger.close()
    found["devices"] = asked.devices
    for name, value in found.items():
        print(f"{name:24} {value:10.1f}")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(to_json(found, indent=2))


def _measure(past: Past, page: Page) -> dict[str, float]:
    with sync_playwright() as engines:
        browser = engines.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS
        )
        tab = browser.new_page()
        tab.goto(f"{page.url}?token={page.token}")
        loads = []
        for _ in range(LOADS):
            began = time.perf_counter()
            tab.goto("about:blank")
            tab.goto(page.url)
            tab.wait_for_selector(".fleet a")
            loads.append(time.perf_counter() - began)
        delays = []
        for place in range(UPDATES):
            past.accept(past.names[place], ROUNDS + 1)
            began = time.perf_counter()
            tab.wait_for_selector(f"#state:text(': {place + 1} of ')")
            delays.append(time.perf_counter() - began)
        heap = tab.evaluate("performance.memory.usedJSHeapSize")
        browser.close()
    return {
        "first load, ms": 1e3 * statistics.median(loads),
        "update visible, ms": 1e3 * statistics.median(delays),
        "slowest update, ms": 1e3 * max(delays),
        "page's heap, MiB": heap / 2**20,
    }


if __name__ == "__main__":
    main()
