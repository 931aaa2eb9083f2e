"""A run's folder with a past, and its page served as a real process."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from past import Past
from patience import patience, waited

from coordinator.page_access import token_of

MOST_MS = patience(60_000)  # of the browser for anything
HERE = ("http://127.0.0.1:", "file:///")


class Page:
    """The page of one run in a process of its own."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "coordinator.cli", "page", str(folder)),
                *("--listen", "127.0.0.1:0"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        assert waited(self._serves, 60)
        self.url = (folder / "page.url").read_text(encoding="ascii").strip()
        self.port = int(self.url.rstrip("/").rpartition(":")[2])
        self.token = token_of(folder)
        self._links: list[http.client.HTTPConnection] = []

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        return (self.folder / "page.url").exists()

    def ask(
        self, path: str = "", *, cookie: str | None = "", **headers: str
    ) -> http.client.HTTPResponse:
        """An answer whose body is still to be read; logged in unless cookie is None."""
        if cookie is not None:
            headers["cookie"] = f"flash-edge-{self.port}={cookie or self.token}"
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience(20))
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
        said = self.process.communicate(timeout=patience(20))[1]
        sys.stdout.write(said)  # shown on failure


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

    def start(folder: Path, **env: str) -> Page:
        pages.append(Page(folder, **env))
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
            timeout=MOST_MS,
            # Offline as the page has to be, and startable as root in a container.
            args=["--no-sandbox", "--disable-background-networking", "--disable-quic"],
        )
        yield found
        found.close()


@pytest.fixture
def plain_tab(browser) -> Iterator[Callable[..., object]]:
    """Opens tabs, each in a context of its own with these options."""
    contexts = []

    def start(**options: object) -> object:
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(MOST_MS)
        return contexts[-1].new_page()

    yield start
    for context in contexts:
        context.close()


@pytest.fixture
def tab(plain_tab) -> Iterator[object]:
    """A tab that fails its test on any console error or request to elsewhere."""
    found = plain_tab()
    said: list[str] = []
    found.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on(
        "request",
        lambda r: None if r.url.startswith(HERE) else said.append(f"asks {r.url}"),
    )
    yield found
    found.context.close()
    assert said == []
