"""A run's folder with a past, and its page served as a real process."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.dashboard.access import token_of
from coordinator.ledger import Ledger, TaskRow, open_ledger
from coordinator.rounds import TaskPhase
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Frozen, MaskRecipe, TaskOrder, Training

HERE = ("http://127.0.0.1:", "file:///")
RUN = """federation = "greenhouse"
task = "digits"
evaluation = "evaluation"
densities = [0.05, 0.2]
rounds = 3
"""
LAYERS = {"conv1.weight": 100, "fc.weight": 1000}
COUNTS = {
    "0.05": {"conv1.weight": 15, "fc.weight": 40},
    "0.2": {"conv1.weight": 60, "fc.weight": 160},
}


class Past:
    """Writes a run's history through the real ledger."""

    def __init__(self, folder: Path, devices: int = 4) -> None:
        self.folder = folder
        self.names = [f"pi-{i:04d}" for i in range(devices)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.toml").write_text(RUN, encoding="utf-8")
        self.ledger: Ledger = open_ledger(folder)

    def hello(self) -> None:
        """Every device says hello and gets a density."""
        for place, name in enumerate(self.names):
            density = 0.2 if place % 2 else 0.05
            self.ledger.see_device(
                name, profile={"board": "pi 4", "ram_mib": 900}, examples=9, version="1"
            )
            self.ledger.assign(name, density, f"{density}, because <b>more</b> is slow")
            self.ledger.count_traffic(
                name,
                sent=1000,
                received=2000,
                rss_mib=300,
                engine="sparse",
                online=True,
                phase="idle",
            )
        self.ledger.put("layers", LAYERS)
        self.ledger.put("counts", COUNTS)
        self.ledger.put("evidence", {"conv1.weight": 55.0, "fc.weight": 170.5})
        self.ledger.settle()

    def begin(self, no: int) -> None:
        """A round opens with every device in it."""
        self.ledger.plan_round(no, goal=len(self.names), quorum=1, rate=0.1, base="")
        self.ledger.issue_tasks(no, [self._task(name, no) for name in self.names])

    def accept(self, name: str, no: int) -> None:
        """An update of one device comes in."""
        self._take(name, no)
        self.ledger.settle()

    def accept_all(self, no: int) -> None:
        """Every device's update comes in."""
        for name in self.names:
            self._take(name, no)
        self.ledger.settle()

    def _take(self, name: str, no: int) -> None:
        self.ledger.accept(
            self._task(name, no),
            f"{name} {no}".encode(),
            examples=9,
            norm=1.0,
            metrics={"loss": 0.5, "seconds": 2.0, "steps": 3.0, "peak_mib": 250.0},
        )

    def end(self, no: int, accuracy: float) -> None:
        """The round closes and is scored."""
        self.ledger.freeze(no)
        self.ledger.finish(no, model=f"round-{no}")
        for density in (0.05, 0.2):
            self.ledger.record_score(
                no, density, {"accuracy": accuracy + density, "loss": 1.0}
            )

    def _task(self, name: str, no: int) -> TaskRow:
        density = 0.2 if self.names.index(name) % 2 else 0.05
        order = TaskOrder(
            id=f"{no}-{name}",
            round_no=no,
            density=density,
            base=manifest_of(bytes(500)),
            mask=MaskRecipe(1, COUNTS[f"{density:g}"], bytes(32)),
            rule=Frozen(),
            training=Training(epochs=1, batch_size=4, learning_rate=0.1),
            ttl_ms=30_000,
            shard=0,
            codec="fp32",
        )
        return TaskRow(
            order.id, no, name, density, TaskPhase.ASSIGNED, pack(order), 500
        )


class Page:
    """The page of one run in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "coordinator.cli", "page", str(folder)),
                *("--listen", "127.0.0.1:0"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 60
        while not (folder / "page.url").exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.05)
        self.url = (folder / "page.url").read_text(encoding="ascii").strip()
        self.port = int(self.url.rstrip("/").rpartition(":")[2])
        self.token = token_of(folder)
        self._links: list[http.client.HTTPConnection] = []

    def ask(
        self, path: str = "", *, cookie: str | None = "", **headers: str
    ) -> http.client.HTTPResponse:
        """An answer whose body is still to be read; logged in unless cookie is None."""
        if cookie is not None:
            headers["cookie"] = f"flash-edge-{self.port}={cookie or self.token}"
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        link.request("GET", f"/{path}", headers=headers)
        self._links.append(link)
        return link.getresponse()

    def get(
        self, path: str = "", *, cookie: str | None = "", **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers."""
        answer = self.ask(path, cookie=cookie, **headers)
        return answer.status, answer.read().decode(), dict(answer.headers)

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.process.terminate()
        sys.stdout.write(self.process.communicate(timeout=20)[1])  # shown on failure


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    """A run of four devices: two rounds done, one open."""
    found = Past(tmp_path / "run")
    found.hello()
    for no in (1, 2):
        found.begin(no)
        for name in found.names:
            found.accept(name, no)
        found.end(no, accuracy=0.5 + no / 10)
    found.begin(3)
    found.accept(found.names[0], 3)
    found.ledger.refuse(found.names[1], 2, "rejected", "its norm is not finite")
    found.ledger.settle()
    yield found
    found.ledger.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Page]]:
    """Serves pages and stops them."""
    pages: list[Page] = []

    def start(folder: Path) -> Page:
        pages.append(Page(folder))
        return pages[-1]

    yield start
    for page in pages:
        page.close()


@pytest.fixture
def make_past() -> Iterator[Callable[[Path, int], Past]]:
    """A run of so many devices that has not begun a round."""
    made: list[Past] = []

    def make(folder: Path, devices: int) -> Past:
        made.append(Past(folder, devices))
        if devices:
            made[-1].hello()
        return made[-1]

    yield make
    for past in made:
        past.ledger.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, or the test is skipped where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None and os.environ.get("FLASH_EDGE_REQUIRE_CROSS") != "1":
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as engines:
        found = engines.chromium.launch(
            executable_path=chromium,
            # Offline as the page has to be, and startable as root in a container.
            args=["--no-sandbox", "--disable-background-networking", "--disable-quic"],
        )
        yield found
        found.close()


@pytest.fixture
def tab(browser) -> Iterator[object]:
    """A tab that fails its test on any console error or request to elsewhere."""
    context = browser.new_context()
    found = context.new_page()
    said: list[str] = []
    found.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on(
        "request",
        lambda r: None if r.url.startswith(HERE) else said.append(f"asks {r.url}"),
    )
    yield found
    context.close()
    assert said == []
