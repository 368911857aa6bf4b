"""Odd input, made of sound input by Hypothesis: image files, engine folders, HTTP requests.

    @given(image_cases())
    def test(case): ...

Mutations know the structure: a PNG's chunks get right checksums again, a JPEG's segments their lengths, a model file
its sha256 in spec.json, so that what is odd gets past the first check.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from fuzz_targets import EngineCase, ImageCase, RequestCase, seed_picture
from hypothesis import strategies as st
from image_files import RIGHT, chunk, encoded, odd_files

FILES = odd_files()
STARTS = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8", b"BM", b"II*\0", b"P6\n", b"GIF89a"]
NUMBERS = [
    0,
    1,
    2,
    4,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    4095,
    16_383,
    30_000,
    65_535,
    1 << 20,
    (1 << 31) - 1,
    (1 << 32) - 1,
]


# ---- Bytes ----------------------------------------------------------------------------------------------------------
@st.composite
def damaged(draw: st.DrawFn, data: bytes, others: list[bytes], steps: int = 4) -> bytes:
    """`data` with a few pieces changed, near its beginning more often than elsewhere."""
    for _ in range(draw(st.integers(1, steps))):
        near = st.integers(0, min(64, len(data)))
        place = draw(near | st.integers(0, len(data)))
        how = draw(st.sampled_from(["flip", "number", "cut", "drop", "double", "insert", "splice", "append"]))
        if how == "flip" and place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]
        elif how == "number":
            width = draw(st.sampled_from([1, 2, 4]))
            value = draw(st.sampled_from(NUMBERS)) % (1 << 8 * width)
            data = (
                data[:place] + value.to_bytes(width, draw(st.sampled_from(["big", "little"]))) + data[place + width :]
            )
        elif how == "cut":
            data = data[:place]
        elif how in ("drop", "double"):
            length = draw(st.integers(1, 64))
            data = (
                data[:place] + (data[place : place + length] * 2 if how == "double" else b"") + data[place + length :]
            )
        elif how == "insert":
            data = data[:place] + draw(st.binary(min_size=1, max_size=16)) + data[place:]
        elif how == "splice":
            other = draw(st.sampled_from(others))
            data = data[:place] + other[draw(st.integers(0, len(other))) :]
        elif how == "append":
            data += draw(st.binary(min_size=1, max_size=16)) * draw(st.sampled_from([1, 1000]))
    return data


# ---- Image files ----------------------------------------------------------------------------------------------------
def image_cases() -> st.SearchStrategy[ImageCase]:
    sound = st.sampled_from(sorted(RIGHT)).map(lambda name: ImageCase(*RIGHT[name]))
    return sound | image_files().map(lambda data: ImageCase(data, None))


def image_files() -> st.SearchStrategy[bytes]:
    """Files of all kinds, most of them damaged."""
    every = st.sampled_from(sorted(FILES)).map(FILES.__getitem__)
    pngs = [data for data in FILES.values() if data.startswith(b"\x89PNG")]
    jpegs = [data for data in FILES.values() if data.startswith(b"\xff\xd8")]
    return st.one_of(
        every,
        every.flatmap(lambda data: damaged(data, list(FILES.values()))),
        st.sampled_from(pngs).flatmap(_damaged_png),
        st.sampled_from(jpegs).flatmap(_damaged_jpeg),
        st.sampled_from(
            [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8", b"BM", b"II*\0", b"P6\n"]
        ).flatmap(lambda start: st.binary(max_size=200).map(start.__add__)),
    )


@st.composite
def _damaged_png(draw: st.DrawFn, data: bytes) -> bytes:
    """Chunks dropped, doubled, exchanged, renamed or changed inside, with checksums that are right."""
    chunks, position = [], 8
    while position + 8 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    _rearrange(draw, chunks, [b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"iCCP", b"gAMA", b"zTXt"])
    return data[:8] + b"".join(chunk(kind, content) for kind, content in chunks)


@st.composite
def _damaged_jpeg(draw: st.DrawFn, data: bytes) -> bytes:
    """Segments dropped, doubled, exchanged, renamed or changed inside, with lengths that are right."""
    segments, position = [], 2
    while data[position] == 0xFF and data[position + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        segments.append((data[position : position + 2], data[position + 4 : position + 2 + length]))
        position += 2 + length
    _rearrange(draw, segments, [b"\xff" + bytes([kind]) for kind in (0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE1, 0xEE, 0xFE)])
    joined = b"".join(kind + struct.pack(">H", len(content) + 2) + content for kind, content in segments)
    scan = data[position:]
    if draw(st.booleans()):
        scan = draw(damaged(scan, [scan], 2)) + b"\xff\xd9"
    return data[:2] + joined + scan


def _rearrange(draw: st.DrawFn, parts: list[tuple[bytes, bytes]], kinds: list[bytes]) -> None:
    for _ in range(draw(st.integers(1, 3))):
        place, other = (draw(st.integers(0, len(parts) - 1)) for _ in range(2))
        kind, content = parts[place]
        how = draw(st.sampled_from(["drop", "double", "exchange", "rename", "change", "change", "change"]))
        if how == "drop" and len(parts) > 1:
            del parts[place]
        elif how == "double":
            parts.insert(other, parts[place])
        elif how == "exchange":
            parts[place], parts[other] = parts[other], parts[place]
        elif how == "rename":
            parts[place] = (draw(st.sampled_from(kinds)), content)
        elif how == "change":
            parts[place] = (kind, draw(damaged(content, [content], 2))[:60_000])


# ---- Engine folders -------------------------------------------------------------------------------------------------
WILD: list[Any] = [
    None, True, False, 0, 1, -1, 3, 31, 32, 33, 1 << 16, 1 << 31, 1 << 40, 1 << 63, 10**400, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "fixed", "padded", "tensorrt", "custom", "panoptic",
    "1", "nan",
    "\u00e9\u4e2d\U0001f600", "\ud800", "\0", "../model.onnx", "/etc/passwd", "a\nb", "x" * 10_000, [], {}, [[]],
    [None], [1, 2, 3], [0, 0, 0], [300, -1, 1e9], [1, 1 << 20, 1 << 20], {"x": {}}, ["semantic"],
    ["panoptic", "panoptic"],
]  # fmt: skip


@st.composite
def engine_cases(draw: st.DrawFn, engine: Path) -> EngineCase:
    """Of a sound engine folder: spec.json with other values, or as damaged text; model.onnx damaged, its
    sha256 right or not; as an engine of TensorRT."""
    text, model = (engine / "spec.json").read_text(encoding="utf-8"), (engine / "model.onnx").read_bytes()
    spec, given = json.loads(text), None
    if draw(st.integers(0, 2)) == 0:
        given = draw(damaged(model, [model, b"", b"text"], 3))
        if draw(st.integers(0, 4)):
            spec["files"]["model.onnx"] = hashlib.sha256(given).hexdigest()
    if draw(st.integers(0, 9)) == 0:
        spec |= {"backend": "tensorrt", "files": {"model.plan": spec["files"]["model.onnx"]}}
    if given is None or draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            _change(draw, spec)
    data = json.dumps(spec).encode()
    if draw(st.integers(0, 5)) == 0:
        deep = draw(st.sampled_from([b"[" * 100_000, b'{"model":' * 100_000, b"9" * 5000, b"\xff\xfe", b"null", b"[]"]))
        data = draw(damaged(data, [data, deep], 3)) if draw(st.booleans()) else deep
    return EngineCase(data, given)


def _change(draw: st.DrawFn, spec: Any) -> None:
    """One value of the tree is replaced, dropped, or gets a neighbour; all depths are as likely."""
    places = list(_places(spec))
    parent, key = draw(st.sampled_from(sorted(places, key=lambda place: str(place[1]))))
    how = draw(st.sampled_from(["replace", "replace", "replace", "swap", "drop", "add"]))
    if how == "replace":
        parent[key] = draw(st.sampled_from(WILD) | st.integers() | st.floats() | st.text(max_size=8))
    elif how == "swap":
        other, other_key = draw(st.sampled_from(sorted(places, key=lambda place: str(place[1]))))
        parent[key] = json.loads(json.dumps(other[other_key]))
    elif how == "drop":
        del parent[key]
    elif isinstance(parent, dict):
        parent[draw(st.text(max_size=8))] = draw(st.sampled_from(WILD))
    else:
        parent.append(draw(st.sampled_from(WILD)))


def _places(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield node, key
        yield from _places(child)


# ---- Requests -------------------------------------------------------------------------------------------------------
PICTURE = encoded(".png", seed_picture())
VALUES = [
    "panoptic", "instance", "semantic", "depth", "", "0", "1", "0.5", "-1", "2", "nan", "inf", "1e-400", "1e999",
    "true", "false", "9" * 5000, "%00", "%ff%fe", "%ED%A0%80", "%F0%9F%98%80", "a%0d%0aX-Injected:%201",
    "../../etc/passwd",
    "%", "%zz", "a&a", "[]", "{}", "x" * 5000, "é",
]  # fmt: skip
NAMES = [
    "task", "object_threshold", "overlap_threshold", "min_score", "overlay", "after", "", "x", "task[]", "%00", "%ff"
]  # fmt: skip
HEADERS = [
    "Host: localhost", "Host: 127.0.0.1", "Host: elsewhere.example", "Host:", "Host: [::1", "Host: \xff", "Host: a b",
    "Host: localhost:99999", "Content-Length: 0", "Content-Length: 1", "Content-Length: -1", "Content-Length: 1e3",
    "Content-Length: 99999999999999999999", "Content-Length: +5", "Content-Length: 5, 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: identity",
    "Expect: 100-continue", "Expect: x", "Content-Encoding: gzip", "Content-Encoding: identity",
    "Connection: close", "Connection: upgrade",
    "Upgrade: websocket", "Sec-WebSocket-Key: x", "Authorization: Bearer", "Authorization: \xe9", "Range: bytes=0-1",
    "Content-Type: multipart/form-data; boundary=x", "Content-Type: application/json", "Origin: null",
    "X: " + "y" * 5000, "X\0: y", "X : y", ": y", "no colon", " folded", "\tfolded", "X: a\rb", "X: a\0b",
    "Cookie: " + "a=b; " * 100,
]  # fmt: skip
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    + PICTURE + b"\r\n--x--\r\n"
)  # fmt: skip


def request_cases() -> st.SearchStrategy[RequestCase]:
    return st.one_of(_sound_requests(), _requests(), _requests(), _pipelines())


@st.composite
def _sound_requests(draw: st.DrawFn) -> RequestCase:
    """Any query that the server takes, with the picture whose segments are known."""
    number = st.sampled_from(["0", "0.25", "0.5", "0.99", "1"])
    fields = {"task": st.sampled_from(["panoptic", "instance", "semantic"]), "min_score": number}
    fields |= {"object_threshold": number, "overlap_threshold": number, "overlay": st.sampled_from(["true", "0"])}
    query = draw(st.fixed_dictionaries({}, optional=fields))
    target = "/segment?" + "&".join(f"{name}={value}" for name, value in query.items())
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PICTURE)}\r\nConnection: close\r\n\r\n"
    return RequestCase((head.encode(), PICTURE), right=query)


@st.composite
def _requests(draw: st.DrawFn) -> RequestCase:
    request = draw(_request_bytes())
    if draw(st.booleans()):
        request = draw(damaged(request, [request, PICTURE], 2))
    return RequestCase(_cut(draw, request), draw(st.sampled_from(["wait", "wait", "shut", "leave"])))


@st.composite
def _pipelines(draw: st.DrawFn) -> RequestCase:
    """Several requests before the first answer."""
    requests = draw(st.lists(_request_bytes(), min_size=2, max_size=4))
    return RequestCase(_cut(draw, b"".join(requests)), draw(st.sampled_from(["wait", "wait", "leave"])))


def _cut(draw: st.DrawFn, data: bytes) -> tuple[bytes, ...]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    return tuple(data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)) or (b"",)


@st.composite
def _request_bytes(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "TRACE", "post", "", "É"]))
    path = draw(st.sampled_from(["/segment", "/segment", "/segment", "/live", "/info", "/healthz",
    "/metrics", "/", "*",
        "/openapi.json", "/segment/", "//segment", "/%2e%2e/etc", "/\0", "/é", "segment", "http://localhost/segment",
        "/" + "a" * 5000, "/../serve.py", "/segment#x", "/segment;x"]))  # fmt: skip
    query = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3))
    target = path + ("?" + "&".join(f"{name}={value}" for name, value in query) if query else "")
    version = draw(st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]))
    body = draw(st.sampled_from([PICTURE, PICTURE, b"", MULTIPART]) | image_files())[: 1 << 18]
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    if draw(st.integers(0, 9)):
        headers.insert(0, "Host: localhost")
    framing = draw(st.sampled_from(["right", "right", "chunks", "lies", "none"]))
    if framing == "right":
        headers.append(f"Content-Length: {len(body)}")
    elif framing == "lies":
        headers.append(f"Content-Length: {max(0, len(body) + draw(st.sampled_from([-20, -1, 1, 20, 1 << 40])))}")
    elif framing == "chunks":
        headers.append("Transfer-Encoding: chunked")
        body = _chunks(draw, body)
    head = "\r\n".join([f"{method} {target} {version}", *headers, "", ""])
    return head.encode("latin-1" if draw(st.booleans()) else "utf-8", "replace") + body


def _chunks(draw: st.DrawFn, body: bytes) -> bytes:
    place = draw(st.integers(0, len(body)))
    form = draw(st.sampled_from(["%x", "%X", "0%x", "%x;a=b", "-%x", "%x ", "g%x", "%xffffffffff", "%x" + ";" * 5000]))
    parts = [((form % len(part)).encode() + b"\r\n" + part + b"\r\n") for part in (body[:place], body[place:]) if part]
    end = draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nbad\r\n\r\n", b"", b"0\r\n"]))
    return b"".join(parts) + end
