"""The page's door: what is asked for is what the router sees, whatever headers say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from patience import patience, waited

from coordinator.views.page.access_middleware import AccessMiddleware, host_of
from coordinator.views.page.patience import patient

TOKEN = "t" * 32
ASK_S = patience(1.0)  # for a link to say what it wants
LOCAL = ("127.0.0.1", "localhost", "::1")
SECRETS = ("/api/run", "/api/devices/pi-1", "/files/run.toml", "/metrics", "/events")
HOSTS = (
    "127.0.0.1/static/?",
    "127.0.0.1/static/",
    "127.0.0.1/static/#",
    "127.0.0.1?/static/",
    "127.0.0.1\\static\\",
    "127.0.0.1;/static/",
    "user@127.0.0.1",
    "127.0.0.1:80/static/?",
    "127.0.0.1:/",
    "127.0.0.1, evil.example",
    "evil.example",
    "evil.example:80@127.0.0.1",
    "127.0.0.1.evil.example",
    "[::1]/static/?",
    "[::1",
    "",
    " ",
)
PATHS = (
    "//api/run",
    "/static//../api/run",
    "/static/../api/run",
    "/static/..;/api/run",
    "/STATIC/../api/run",
    "/static/%2e%2e/api/run",
    "/static/..%2fapi/run",
    "/static/?/../api/run",
    "/login/../api/run",
    "/api/run/",
    "/api/run;/static/",
    "http://127.0.0.1/static/../api/run",
)


def ask(scope: dict[str, Any], *, hosts: tuple[str, ...] = LOCAL) -> tuple[int, bool]:
    """Status, and whether the request came through to what is guarded."""
    reached: list[str] = []
    said: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"facts"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    guard = AccessMiddleware(page, token=TOKEN, cookie="flash", hosts=hosts)
    asyncio.run(guard(scope, receive, send))
    return said[0].get("status", said[0].get("code")), bool(reached)


def scope(
    path: str, host: str | None = "127.0.0.1:8484", method: str = "GET", **more: Any
) -> dict[str, Any]:
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    return {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("127.0.0.1", 8484),
        "client": ("127.0.0.1", 5),
        **more,
        "headers": [*headers, *more.get("headers", [])],
    }


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", SECRETS)
def test_no_host_header_opens_what_needs_the_token(host: str, path: str) -> None:
    for hosts in (LOCAL, ()):
        status, reached = ask(scope(path, host), hosts=hosts)
        assert not reached
        assert status in (401, 421)


@pytest.mark.parametrize("path", [p for p in PATHS if "?" not in p])
def test_only_a_file_of_the_page_itself_needs_no_token(path: str) -> None:
    assert ask(scope(path))[1] is False


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT", "TRACE"])
def test_static_files_are_only_read(method: str) -> None:
    assert ask(scope("/static/page.css", method=method)) == (401, False)
    assert ask(scope("/static/page.css"))[1]
    assert ask(scope("/static/page.css", method="HEAD"))[1]


def test_headers_that_proxies_write_decide_nothing() -> None:
    told = [
        (b"x-forwarded-host", b"127.0.0.1/static/?"),
        (b"x-forwarded-prefix", b"/static"),
        (b"x-original-url", b"/static/page.css"),
        (b"x-rewrite-url", b"/static/page.css"),
        (b"forwarded", b"host=127.0.0.1"),
    ]
    assert ask(scope("/api/run", headers=told)) == (401, False)
    assert ask(scope("/api/run", "evil.example", headers=told)) == (421, False)


def test_two_hosts_or_none_are_refused() -> None:
    twice = [(b"host", b"evil.example")]
    assert ask(scope("/static/page.css", headers=twice)) == (421, False)
    assert ask(scope("/static/page.css", None)) == (421, False)


def test_a_websocket_never_reaches_the_page() -> None:
    assert ask(scope("/api/run") | {"type": "websocket"}) == (1008, False)


def test_the_token_opens_as_cookie_and_as_bearer() -> None:
    for header in (
        (b"cookie", f"flash={TOKEN}".encode()),
        (b"authorization", f"Bearer {TOKEN}".encode()),
    ):
        assert ask(scope("/api/run", headers=[header])) == (200, True)
    for wrong in (b"", b"flash=", b"flash=\xff", b"FLASH=" + TOKEN.encode()):
        assert ask(scope("/api/run", headers=[(b"cookie", wrong)])) == (401, False)


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_a_host_is_a_name_and_a_port_and_nothing_else(text: str) -> None:
    found = host_of([(b"host", text.encode("latin-1"))])
    assert found is None or re.fullmatch(r"[\w.:-]+", found, re.ASCII)


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=patience(30)) as link:
        link.sendall(request)
        got = b""
        while more := link.recv(65_536):
            got += more
    return got


def oldest() -> str:
    """The oldest starlette that is allowed, in a folder of its own; kept for later."""
    text = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    version = re.search(r'"starlette>=([\d.]+)"', text)[1]  # type: ignore[index]
    where = Path("~/.cache/flash-edge").expanduser() / f"starlette-{version}"
    if not where.exists():
        fresh = where.with_name(f".{where.name}-{os.getpid()}")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--retries",
             "1", "--target", fresh, f"starlette=={version}"],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip("the oldest starlette needs a package index")
        fresh.replace(where)
    return str(where)


@pytest.mark.parametrize("version", ["installed", "oldest"])
def test_a_real_page_keeps_its_facts_under_every_trick(past, serve, version) -> None:
    where = oldest() if version == "oldest" else ""
    page = serve(past.folder, PYTHONPATH=where)
    tricks = [(path, host) for path in SECRETS for host in HOSTS]
    tricks += [(path, "127.0.0.1") for path in PATHS]
    for path, host in tricks:
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = raw(page.port, head.encode())
        status = answer.split(b" ", 2)[1]
        assert status in (b"400", b"401", b"404", b"421"), (path, host, answer)
        assert b"greenhouse" not in answer
    assert page.get("static/page.css", cookie=None)[0] == 200
    assert page.get("api/run")[0] == 200
    upgrade = (
        b"GET /api/run HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b"101" not in raw(page.port, upgrade).split(b"\r\n")[0]


def test_links_that_ask_nothing_end_and_shut_nobody_out() -> None:
    """The page's protocol on a real listener: slow heads, and more than it holds."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"facts"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()
        config = uvicorn.Config(
            app, http=patient(ask_s=ASK_S, at_once=8), ws="none", lifespan="off",
            log_config=None, log_level="error",
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            ask = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            slow = [
                socket.create_connection(where, timeout=patience(30)) for _ in range(20)
            ]
            for link in slow:
                with contextlib.suppress(OSError):
                    link.sendall(ask[:7])
            with socket.create_connection(where, timeout=patience(30)) as honest:
                for _ in range(3):  # a link that is kept, with a deadline for each
                    honest.sendall(ask)
                    got = b""
                    while not got.endswith(b"0\r\n\r\n"):
                        got += honest.recv(65_536)
                    assert got.startswith(b"HTTP/1.1 200 OK")
                honest.sendall(ask[:5])
                assert cut_off(honest)
            assert all(cut_off(link) for link in slow)
            for link in slow:
                link.close()
        finally:
            server.should_exit = True
            thread.join()


def cut_off(link: socket.socket) -> bool:
    """Whether the other side ends a link that goes on a byte at a time."""

    def gone() -> bool:
        try:
            link.send(b"x")
            with contextlib.suppress(TimeoutError):
                return not link.recv(1)
        except OSError:
            return True
        return False

    link.settimeout(0.05)
    return waited(gone, 30 * ASK_S)
