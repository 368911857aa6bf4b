"""What the first bytes of an image file say: its format and its size, before a decoder sets memory aside for it.

kind, size = read_header(data)      # ("png", (720, 960)); (None, None) where the format is another
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Size = tuple[int, int]
Order: TypeAlias = Literal["little", "big"]


def read_header(data: bytes) -> tuple[str | None, Size | None]:
    """(format, (height, width)) of a PNG, JPEG, WebP, BMP, TIFF, PNM or GIF file; size None where the header is cut off
    or damaged.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png", _whole(data, 24, (_big(data, 20, 4), _big(data, 16, 4)))
    if data.startswith(b"\xff\xd8"):
        return "jpeg", read_jpeg_header(data)[0]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp", _webp_size(data)
    if data.startswith(b"BM"):
        return "bmp", _bmp_size(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff", _tiff_size(data)
    if re.match(rb"P[1-6][\s#]", data):
        return "pnm", _pnm_size(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif", _whole(data, 10, (_little(data, 8, 2), _little(data, 6, 2)))
    return None, None


def read_jpeg_header(data: bytes) -> tuple[Size | None, bool]:
    """(height, width) if the frame header is there, and whether an end marker follows the start of the scan.

    Markers' segments are stepped over by their lengths, since a thumbnail in one has markers of its own.
    """
    size, position = None, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            size = _whole(data, position + 9, (_big(data, position + 5, 2), _big(data, position + 7, 2)))
        if marker == 0xDA:  # start of scan: its data never holds an end marker by chance
            return size, data.find(b"\xff\xd9", position) >= 0
        position += 2 + _big(data, position + 2, 2)
    return size, False


def _webp_size(data: bytes) -> Size | None:
    """The three kinds of first chunk: extended, lossless, lossy (RFC 9649, sections 2.5 to 2.7)."""
    chunk = data[12:16]
    if chunk == b"VP8X":  # canvas less 1, 24 bits each
        return _whole(data, 30, (1 + _little(data, 27, 3), 1 + _little(data, 24, 3)))
    if chunk == b"VP8L" and data[20:21] == b"\x2f":  # 14 bits each, less 1
        bits = _little(data, 21, 4)
        return _whole(data, 25, (1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)))
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # 14 bits each, and 2 of scaling
        return _whole(data, 30, (_little(data, 28, 2) & 0x3FFF, _little(data, 26, 2) & 0x3FFF))
    return None


def _bmp_size(data: bytes) -> Size | None:
    """OS/2's header of 12 bytes has 16 bits each; all others 32, and a height below 0 for rows from the top."""
    if _little(data, 14, 4) == 12:
        return _whole(data, 22, (_little(data, 20, 2), _little(data, 18, 2)))
    width, height = (int.from_bytes(data[start : start + 4], "little", signed=True) for start in (18, 22))
    return _whole(data, 26, (abs(height), abs(width)))


def _tiff_size(data: bytes) -> Size | None:
    """Tags 256 and 257 of the first page's directory (TIFF 6.0, section 2; BigTIFF has 8 bytes where TIFF has 4)."""
    order: Order = "little" if data[:2] == b"II" else "big"
    big = b"+" in data[2:4]
    wide = 8 if big else 4
    count_length, entry_length = (8, 20) if big else (2, 12)

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], order)

    start = number(8 if big else 4, wide)
    found: dict[int, int] = {}
    for place in range(min(number(start, count_length), len(data) // entry_length)):
        entry = start + count_length + place * entry_length
        tag, kind = number(entry, 2), number(entry + 2, 2)
        if tag in (256, 257) and entry + entry_length <= len(data):
            # SHORT and LONG lie at the value's beginning, whatever follows them
            found.setdefault(tag, number(entry + 4 + wide, {3: 2, 4: 4, 16: 8}.get(kind, 0)))
    return (found[257], found[256]) if len(found) == 2 else None


def _pnm_size(data: bytes) -> Size | None:
    """The first two numbers after the kind; lines of # are comments. A number of ten digits is beyond reason."""
    match = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,10})(?:\s|#[^\n]*\n)+(\d{1,10})(?=[\s#])", data)
    return (int(match[2]), int(match[1])) if match else None


def _whole(data: bytes, end: int, size: Size) -> Size | None:
    return size if len(data) >= end else None


def _big(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")
