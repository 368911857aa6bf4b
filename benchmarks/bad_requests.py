"""Requests that a server of images has to refuse, each with the status that it deserves.

status, reason = await send_bad(Server(url, token), client, "text")       # 415, "body: expected a JPEG, …"
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx


@dataclass(frozen=True)
class Server:
    url: str
    token: str


@dataclass(frozen=True)
class BadRequest:
    status: int  # that the server has to answer
    body: bytes = b""
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "segment"


def png_of_size(height: int, width: int) -> bytes:
    """A PNG file whose header promises this size, and which has next to nothing of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SLOW = "slow"
BAD_REQUESTS = {
    "empty": BadRequest(400),
    "text": BadRequest(415, b"this is no picture"),
    "other file": BadRequest(415, b"%PDF-1.7 \xff\xfe\xfd" * 20),
    "cut off": BadRequest(422, png_of_size(64, 64)[:40]),
    "damaged": BadRequest(422, png_of_size(64, 64)),  # an end, but no rows
    "bomb": BadRequest(413, png_of_size(30_000, 30_000)),
    "too large": BadRequest(413, bytes(21 << 20)),
    "task": BadRequest(400, b"x", {"task": "depth"}),
    "threshold": BadRequest(400, b"x", {"min_score": "7"}),
    "query": BadRequest(400, b"x", {"file": "/etc/passwd"}),
    "token": BadRequest(401, b"x", headers={"Authorization": "Bearer wrong"}),
    "method": BadRequest(405, method="GET"),
    "path": BadRequest(404, path="segments/1"),
    SLOW: BadRequest(408),
}


async def send_bad(server: Server, client: httpx.AsyncClient, kind: str) -> tuple[int, str]:
    """(status, reason) that the server answers. Raises httpx.HTTPError or OSError where it does not."""
    if kind == SLOW:
        return await _send_slowly(server)
    bad = BAD_REQUESTS[kind]
    got = await client.request(bad.method, bad.path, content=bad.body, params=bad.query, headers=bad.headers)
    return got.status_code, _reason(got.content)


async def _send_slowly(server: Server) -> tuple[int, str]:
    """Promises a body of 1000 bytes, sends one, and waits."""
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = f"POST /segment HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {server.token}\r\n"
        writer.write(head.encode() + b"Content-Length: 1000\r\n\r\nx")
        await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    words = head.split()
    return (int(words[1]), _reason(body)) if len(words) > 1 else (0, "")


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
