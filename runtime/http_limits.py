"""What the server takes, and how it says no: a status and one line, before anything large is held in memory.

data = await read_body(request, limits, budget)     # raises Refusal(413, …), Refusal(408, …), …
check_image_header(data, limits)                    # Refusal(415, …): no image; Refusal(413, …): too many pixels
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from mask2edge.runtime.image_header import read_header, read_jpeg_header
from mask2edge.runtime.images import MOST_SCANS, description

FORMATS = "a JPEG, PNG, WebP or BMP image"
SERVED = ("jpeg", "png", "webp", "bmp")  # what browsers show and cameras send


class Refusal(Exception):
    """An answer other than 200: its status and its reason, one line for the client."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, " ".join(reason.split()), headers or {}


@dataclass(frozen=True)
class Limits:
    bytes: int = 20 << 20  # of a body
    pixels: int = 1 << 24  # of an image: a 12-megapixel photograph passes
    waiting: int = 8  # requests in line while one is at work
    connections: int = 64
    head_seconds: float = 5.0  # for a request's head to arrive
    body_seconds: float = 10.0  # for its body
    seconds: float = 30.0  # for all of it, up to the last byte of the answer


class BodyBudget:
    """Bounds the bytes of all bodies at a time: those that arrive, wait, and are worked on."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    @contextlib.contextmanager
    def account(self) -> Iterator[BodyAccount]:
        """For one request: gives back on leaving what was taken in it."""
        account = BodyAccount(self)
        try:
            yield account
        finally:
            self.held -= account.taken


class BodyAccount:
    def __init__(self, budget: BodyBudget) -> None:
        self._budget, self.taken = budget, 0

    def take(self, count: int) -> None:
        """Raises Refusal where all bodies together would be too much."""
        if self._budget.held + count > self._budget.most:
            raise busy("the bodies of other requests fill the memory set aside for them")
        self._budget.held += count
        self.taken += count


def busy(reason: str) -> Refusal:
    return Refusal(503, f"busy: {reason}; try again in a second", {"Retry-After": "1"})


async def read_body(request: Request, limits: Limits, account: BodyAccount) -> bytes:
    """The body, whole. Raises Refusal where it is empty, encoded, too large, too slow, or cut off."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "body: expected the image's own bytes, got a Content-Encoding; send it without")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.bytes:
        raise _too_large(limits)
    try:
        return await asyncio.wait_for(_gather(request, limits, account), limits.body_seconds)
    except asyncio.TimeoutError as error:
        raise Refusal(408, f"body: expected all of it within {limits.body_seconds:g} s; send it faster") from error
    except ClientDisconnect as error:
        raise Refusal(400, "body: the connection ended before the body did") from error


async def _gather(request: Request, limits: Limits, account: BodyAccount) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limits.bytes:
            raise _too_large(limits)
        account.take(len(chunk))
        body += chunk
    if not body:
        raise Refusal(400, f"body: expected {FORMATS}, got nothing; curl sends one with --data-binary @FILE")
    return bytes(body)


def check_image_header(data: bytes, limits: Limits) -> None:
    """Raises Refusal where these bytes are no image, or one that asks for too much memory or time."""
    kind, size = read_header(data)
    if kind not in SERVED:
        raise Refusal(415, f"body: expected {FORMATS}, got {description(data)}")
    if size is None:
        raise Refusal(422, f"body: expected a whole {kind.upper()} image, got one that is cut off or damaged")
    height, width = size
    if height * width > limits.pixels:
        raise Refusal(
            413, f"image: expected at most {limits.pixels} pixels, got {height}x{width}; make it smaller first"
        )
    if kind == "jpeg":
        if not read_jpeg_header(data)[1]:
            raise Refusal(422, "body: expected a whole JPEG image, got one that is cut off")
        if data.count(b"\xff\xda") > MOST_SCANS:
            raise Refusal(422, f"image: expected a JPEG of at most {MOST_SCANS} scans; save it anew")


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"body: expected at most {limits.bytes} bytes, got more; send a smaller file")
