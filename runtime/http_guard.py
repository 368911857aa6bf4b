"""Around every request: who may ask, for how long, and what a browser may do with the answer.

    app.add_middleware(Guard, token="…", hosts={"localhost"}, limits=limits, metrics=metrics)

Plain ASGI, since Starlette's own base for middleware reads bodies ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mask2edge.runtime.http_limits import Limits, Refusal
from mask2edge.runtime.serve_metrics import Metrics

# Nothing from elsewhere; pictures also from memory. Camera frames are nobody's but the page's.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
DISCARD_SECONDS = 1.0


class Guard:
    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        hosts: Iterable[str],
        open_paths: Iterable[str],
        known_paths: Iterable[str],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        """`hosts`: names, besides IP addresses, by which the server is called; `open_paths` need no token;
        `known_paths` are counted by name.
        """
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()
        self._hosts = {host.lower() for host in hosts}
        self._open, self._known = frozenset(open_paths), frozenset(known_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, whole = time.perf_counter(), 0, False

        async def receive_noted() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if status >= 400:
                    # Nothing of a body that was not read shall be taken for the next request.
                    headers["Connection"] = "close"
                    if not whole and "expect" not in Headers(scope=scope):
                        await _discard(receive_noted)
            await send(message)

        try:
            await asyncio.wait_for(self._guarded(scope, receive_noted, send_guarded), self._limits.seconds)
        except asyncio.TimeoutError:
            if status:
                raise  # uvicorn ends the connection
            whole = True  # no time for the rest of a body
            await refuse(late(self._limits), send_guarded)
        finally:
            path = scope["path"] if scope["path"] in self._known else "other"
            self._metrics.request(path, status or 499, time.perf_counter() - start)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(Headers(scope=scope), scope["path"])
        except Refusal as refusal:
            await refuse(refusal, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str) -> None:
        """Raises Refusal."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            # A page elsewhere whose name was made to lead here could otherwise read the camera (DNS rebinding).
            raise Refusal(421, "Host: expected this server's address or name; start it with --allow-host NAME")
        if self._token is not None and path not in self._open:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self._token):
                raise Refusal(
                    401,
                    "token: expected the header 'Authorization: Bearer TOKEN' with this server's token",
                    {"WWW-Authenticate": "Bearer"},
                )

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


async def _discard(receive: Receive) -> None:
    """Takes in what is left of a body, for a while: closing a connection before loses the answer on its way."""

    async def to_the_end() -> None:
        while (await receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(to_the_end(), DISCARD_SECONDS)


def late(limits: Limits) -> Refusal:
    return Refusal(503, f"busy: no answer within {limits.seconds:g} s; try again in a second", {"Retry-After": "1"})


async def refuse(refusal: Refusal, send: Send) -> None:
    """Sends the refusal as a JSON object {"error"}."""
    body = json.dumps({"error": refusal.reason}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
