"""What the first bytes of an image file say: its format and its size, before a decoder sets memory aside for it.

kind, size = read_header(data)      # ("png", (720, 960)); (None, None) where the format is another
"""

from __future__ import annotations

Size = tuple[int, int]


def read_header(data: bytes) -> tuple[str | None, Size | None]:
    """(format, (height, width)) of a PNG, JPEG, WebP or BMP file; size None where the header is cut off or damaged."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png", _whole(data, 24, (_big(data, 20, 4), _big(data, 16, 4)))
    if data.startswith(b"\xff\xd8"):
        return "jpeg", read_jpeg_header(data)[0]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp", _webp_size(data)
    if data.startswith(b"BM"):
        return "bmp", _bmp_size(data)
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


def _whole(data: bytes, end: int, size: Size) -> Size | None:
    return size if len(data) >= end else None


def _big(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")
