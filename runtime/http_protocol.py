"""uvicorn's HTTP/1.1 protocol, less patient: bounds on connections, on the time that a request's head may take, and on
the time that an answer may lie unread.

    uvicorn.Config(app, http=bounded_protocol(limits))

uvicorn itself waits for ever for the head of a connection's first request, and answers what is no HTTP with plain text.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from mask2edge.runtime.http_limits import Limits

LINGER_SECONDS = 1.0  # for a caller to read why it was shown out
PHRASES = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


class LingeringTransport:
    """A connection that is closed in two steps: it says no more at once, and hears no more a little later.

    Closing a socket with bytes unread resets the connection, and the answer is lost on its way to a caller that is
    still sending. What comes meanwhile is for the protocol to drop, as is_closing() says.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        self._closing = True
        try:
            self._transport.write_eof()
        except (OSError, NotImplementedError):  # the caller has left; TLS
            self._transport.close()
            return
        self._transport.resume_reading()  # where uvicorn has paused it, bytes would stay unread
        self._loop.call_later(LINGER_SECONDS, self._transport.close)

    def close_at_once(self) -> None:
        self._transport.close()


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """The protocol's class, which uvicorn makes an object of for each connection."""

    class BoundedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _answers = 0
        transport: LingeringTransport  # type: ignore[assignment]

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(LingeringTransport(transport, self.loop))  # type: ignore[arg-type]
            if len(self.connections) > limits.connections:
                self._end(503, f"busy: all {limits.connections} connections are in use; try again in a second")
            else:
                self._start_timer()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._timer is None and self._awaits_head:
                self._start_timer()
            super().data_received(data)
            if not self._awaits_head:
                self._stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._answers += 1
            self.loop.call_later(limits.seconds, self._drop_if_unread, self._answers)

        def _drop_if_unread(self, answers: int) -> None:
            """A caller that does not read its answer would hold it, and its connection, for ever."""
            if answers == self._answers and self.transport.get_write_buffer_size():
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            self._end(400, "expected an HTTP/1.1 request, got something else")

        @property
        def _awaits_head(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(limits.head_seconds, self._head_is_late)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _head_is_late(self) -> None:
            self._timer = None
            if self._awaits_head:
                self._end(408, f"request: expected its head within {limits.head_seconds:g} s; send it faster")

        def _end(self, status: int, reason: str) -> None:
            body = json.dumps({"error": reason}).encode()
            head = f"HTTP/1.1 {status} {PHRASES[status]}\r\nContent-Type: application/json\r\n"
            if status == 503:
                head += "Retry-After: 1\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            if self.transport.is_closing():
                return
            if self.cycle is not None and not self.cycle.response_complete:  # nothing of it may follow this answer
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self.transport.write(head.encode() + body)
            if status == 503:
                self.transport.close_at_once()  # connections have to become fewer
            else:
                self.transport.close()

    return BoundedProtocol
