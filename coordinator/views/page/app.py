"""The page's addresses: its files, its facts as JSON, and an event when they change."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from coordinator.views.page.access_middleware import AccessMiddleware
from coordinator.views.page.advice import next_step
from coordinator.views.report.document import render
from coordinator.views.report.facts import gather
from coordinator.views.source import RunSource
from edge_sdk.errors import EdgeError
from edge_sdk.json_text import to_json

__all__ = ["make_app"]

STATIC = Path(__file__).parent / "static"
# It brings its own policy, which allows its own scripts by their digests; this one
# keeps it from the page's cookie and facts.
OF_REPORT = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
)
LOOK_S = 0.15  # between two looks at the ledger's change counter
ALIVE_S = 15.0  # a comment so often, or proxies close a silent stream


def make_app(
    source: RunSource, *, token: str, cookie: str, hosts: list[str]
) -> Starlette:
    """The page of one run.

    Args:
        source: Its facts.
        token: Who knows it may look.
        cookie: Name of the cookie that keeps it.
        hosts: Host names the page is served under; empty serves any.
    """
    news = _News(source)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(news.look())
        yield
        looking.cancel()

    app = Starlette(
        routes=[
            Route("/", _index),
            *_fact_routes(source),
            Route("/report.html", _report(source)),
            Route("/files/{path:path}", _files(source)),
            Route("/metrics", _metrics(source)),
            Route("/events", news.events),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(AccessMiddleware, token=token, cookie=cookie, hosts=hosts)
        ],
        lifespan=lifespan,
    )
    # A redirect to the path without its last slash would be put together from the Host
    # header; nothing here links to such a path.
    app.router.redirect_slashes = False
    return app


async def _index(_request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def _fact_routes(source: RunSource) -> list[Route]:
    def facts(path: str, answer: Callable[[dict[str, Any]], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                found = await run_in_threadpool(answer, request.path_params)
            except EdgeError as error:  # an answer too: a run may not have begun
                found = {"missing": str(error), "help": error.help}
            return Response(to_json(found), media_type="application/json")

        return Route(path, endpoint)

    def one_device(path: dict[str, Any]) -> dict[str, Any]:
        return source.device(path["name"]).as_json()

    return [
        facts("/api/run", lambda _: _overview(source)),
        facts("/api/devices/{name}", one_device),
        facts("/api/rounds/{no:int}", lambda path: source.round(path["no"]).as_json()),
        facts("/api/warm-up", lambda _: source.warm_up().as_json()),
        facts("/api/exports", lambda _: _exports(source)),
    ]


def _overview(source: RunSource) -> dict[str, Any]:
    """Facts of the overview: the run, whether it runs, and what to do next."""
    view, runs = source.run(), source.runs()
    evaluation = str(source.settings().evaluation or "")
    step = next_step(view, source.folder, evaluation, runs=runs)
    return view.as_json() | {"runs": runs, "next": step}


def _exports(source: RunSource) -> dict[str, Any]:
    """Files to download, and how to make some."""
    model = shlex.quote(str(source.folder / "models" / "density-DENSITY.safetensors"))
    watch = f"flash-coordinator status {shlex.quote(str(source.folder))} --live"
    return {
        "files": msgspec.to_builtins(source.exports.all()),
        "commands": [
            {"what": "until then", "command": watch},
            {"what": "export", "command": f"flash-export build {model}"},
        ],
    }


def _report(source: RunSource) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_request: Request) -> Response:
        try:
            text = await run_in_threadpool(lambda: render(gather(source)))
        except EdgeError as error:
            return PlainTextResponse(f"{error}. {error.help}", status_code=404)
        return HTMLResponse(text, headers={"content-security-policy": OF_REPORT})

    return endpoint


def _files(source: RunSource) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        path = await run_in_threadpool(source.exports.file, request.path_params["path"])
        if path is None:
            return PlainTextResponse("no such file", status_code=404)
        return FileResponse(path, filename=path.name)

    return endpoint


def _metrics(source: RunSource) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_request: Request) -> Response:
        try:
            from coordinator.views.page import metrics  # noqa: PLC0415 - an extra
        except ImportError:
            said = "metrics need an extra: pip install 'flash-edge[metrics]'"
            return PlainTextResponse(said, status_code=501)
        try:
            view = await run_in_threadpool(source.run)
        except EdgeError:  # not begun, which is a figure too
            view = None
        text = await run_in_threadpool(metrics.exposition, view)
        return Response(text, media_type=metrics.CONTENT_TYPE_LATEST)

    return endpoint


class _News:
    """Changes of the ledger, looked for once for all open pages."""

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._version: object = None
        self._changed = asyncio.Condition()

    async def look(self) -> None:
        """Wakes every stream when the ledger has changed."""
        while True:
            version = await run_in_threadpool(self._source.version)
            if version != self._version:
                async with self._changed:
                    self._version = version
                    self._changed.notify_all()
            await asyncio.sleep(LOOK_S)

    async def events(self, _request: Request) -> Response:
        """The event stream of one page."""
        return StreamingResponse(self.stream(), media_type="text/event-stream")

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events of one page; `data` is only a sign to ask again."""
        seen: object = None
        while True:
            if await self._newer(seen):
                seen = self._version
                yield b"data: changed\n\n"
            else:
                yield b": alive\n\n"

    async def _newer(self, seen: object) -> bool:
        """Waits a while for a version that is not the one seen."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with self._changed:
                waiting = self._changed.wait_for(lambda: self._version != seen)
                await asyncio.wait_for(waiting, ALIVE_S)
        return self._version != seen
