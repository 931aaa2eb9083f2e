"""Access to the page: by its token, and under the host names it listens to.

A page on loopback can still be reached by any web site that the browser has open,
through a host name that points to 127.0.0.1; the Host header tells them apart.

What is asked for is the path that the router sees, ``scope["path"]``, and nothing put
together from headers: ``Host: 127.0.0.1/static/?`` once made starlette's `request.url`
name a path that was never asked for.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AccessMiddleware", "host_of"]

LONGEST_LOGIN = 512  # bytes of a login form
LOGIN_S = 10.0  # for all of it
FILE = re.compile(r"[\w-]+(?:\.[\w-]+)+", re.A)  # one name; no folder, no ..
HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d{1,5})?", re.A
)
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>flash-edge: log in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="static/page.css"></head>
<body><main><h1>Log in</h1>{said}
<form method="post" action="login"><p><label for="token">Token</label></p>
<p><input id="token" name="token" type="password" autocomplete="off" autofocus required>
<button>Open</button></p></form>
<p class="dim">It is in <code>page.token</code> of the run's folder;
<code>flash-coordinator page FOLDER --address</code> prints an address with it.</p>
</main></body></html>
"""


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The host that a request names, in lower case, without its port.

    None where it names none, several, or something that is no host: a name ends with
    its port, and nothing that a URL has after it may follow.

    Args:
        headers: Names in lower case, as ASGI has them.

    Example:
        >>> host_of([(b"host", b"LocalHost:80")]), host_of([(b"host", b"a/static/?")])
        ('localhost', None)
    """
    given = [value for name, value in headers if name == b"host"]
    if len(given) != 1:
        return None
    match = HOST.fullmatch(given[0].decode("latin-1"))
    if match is None:
        return None
    return (match["six"] or match["name"]).lower().removesuffix(".")


class AccessMiddleware:
    """Middleware that asks for the token and sets the security headers.

    Args:
        app: What is guarded.
        token: Its token.
        cookie: Name of the cookie; cookies of a host are shared by its ports.
        hosts: Host names that are served; empty serves any.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, cookie: str, hosts: Iterable[str]
    ) -> None:
        self._app, self._token, self._cookie = app, token, cookie
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.encode() not in names
                    ),
                ]
            await send(message)

        request = Request(scope, receive)
        answer = await self._answer(request)
        await (answer or self._app)(scope, receive, send_guarded)

    async def _answer(self, request: Request) -> Response | None:
        """Answer that refuses a request; None lets it through."""
        host = host_of(request.scope["headers"])
        if host is None or (self._hosts and host not in self._hosts):
            return PlainTextResponse(
                "this page is not served under that name", status_code=421
            )
        path, reads = request.scope["path"], request.method in ("GET", "HEAD")
        if path == "/login" and request.method == "POST":
            return await self._login(request)
        given = request.query_params.get("token")
        if given is not None and path == "/":
            return self._open(given)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        known = any(
            map(self._is_right, (request.cookies.get(self._cookie, ""), bearer))
        )
        if known or (reads and _is_static(path)):  # nothing in there is of the run
            return None
        if path == "/":
            return HTMLResponse(LOGIN.format(said=""), status_code=401)
        return PlainTextResponse("log in first", status_code=401)

    async def _login(self, request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_form(request), LOGIN_S)
        except (ClientDisconnect, asyncio.TimeoutError):
            return PlainTextResponse("cut off", status_code=400)
        if body is None:
            return PlainTextResponse("too long", status_code=413)
        fields = parse_qs(body.decode("ascii", "replace"))
        return self._open(fields.get("token", [""])[0])

    def _open(self, given: str) -> Response:
        if not self._is_right(given.strip()):
            said = '<p class="bad" role="alert">That is not the token.</p>'
            return HTMLResponse(LOGIN.format(said=said), status_code=401)
        # Relative, so that it also works behind a proxy under a path of its own.
        answer = RedirectResponse("./", status_code=303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer

    def _is_right(self, given: str) -> bool:
        right = hmac.compare_digest(given.encode(), self._token.encode())
        return right and bool(self._token)


async def _form(request: Request) -> bytes | None:
    """A login form's bytes; None if it is too long to be one."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_LOGIN:
            return None
    return body


def _is_static(path: str) -> bool:
    """Return whether a decoded path is one of the page's own files."""
    name = path.removeprefix("/static/")
    return name != path and FILE.fullmatch(name) is not None
