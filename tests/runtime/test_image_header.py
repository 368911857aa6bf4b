"""Sizes read from headers are those that OpenCV decodes, for every format; what is cut off has none."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime.image_header import read_header

FORMATS = {
    "png": [(".png", [])],
    "jpeg": [
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
    ],
    "webp": [(".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]), (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101])],  # lossy, lossless
    "bmp": [(".bmp", [])],
    "tiff": [(".tiff", []), (".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 1])],
    "pnm": [(".ppm", []), (".ppm", [cv2.IMWRITE_PXM_BINARY, 0]), (".pgm", [])],
}
CASES = [(kind, suffix, options) for kind, ways in FORMATS.items() for suffix, options in ways]


@settings(deadline=None)
@given(st.sampled_from(CASES), st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 3, 4]))
def test_sizes_are_those_of_the_encoded_picture(case, height, width, channels):
    kind, suffix, options = case
    picture = np.full((height, width, channels), 90, np.uint8)
    if channels == 4:
        picture[..., 3] = 7  # transparency makes an extended WebP
    if kind == "pnm":
        picture = np.full((height, width, 1 if suffix == ".pgm" else 3), 90, np.uint8)
    done, data = cv2.imencode(suffix, picture, options)
    assert done
    assert read_header(data.tobytes()) == (kind, (height, width))


@pytest.mark.parametrize(("kind", "suffix", "options"), CASES)
def test_a_header_that_is_cut_off_has_no_size(kind, suffix, options):
    data = cv2.imencode(suffix, np.zeros((50, 70) if suffix == ".pgm" else (50, 70, 3), np.uint8), options)[1].tobytes()
    sizes = [read_header(data[:length])[1] for length in range(len(data) + 1)]
    first = next(place for place, size in enumerate(sizes) if size is not None)
    assert sizes[:first] == [None] * first
    assert set(sizes[first:]) == {(50, 70)}


STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8",
    b"RIFF1234WEBPVP8X",
    b"BM",
    b"II*\0\x08\0\0\0",
    b"MM\0+",
    b"P5 ",
    b"GIF89a",
]


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(STARTS))
def test_no_bytes_are_too_much_for_it(data, start):
    kind, size = read_header(start + data)
    assert (kind is None) <= (size is None)
    assert size is None or min(size) >= 0


def test_rarer_headers():
    top_down = b"BM" + bytes(12) + struct.pack("<Iii", 40, 70, -50) + bytes(20)
    assert read_header(top_down) == ("bmp", (50, 70))
    os2 = b"BM" + bytes(12) + struct.pack("<IHH", 12, 70, 50)
    assert read_header(os2) == ("bmp", (50, 70))
    extended = b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (69).to_bytes(3, "little") + (49).to_bytes(3, "little")
    assert read_header(extended) == ("webp", (50, 70))
    assert read_header(b"GIF89a" + struct.pack("<HH", 70, 50)) == ("gif", (50, 70))
    assert read_header(b"P6#1\n # 2 3\n70\t50 255\n") == ("pnm", (50, 70))
    assert read_header(b"P7\nWIDTH 70\nHEIGHT 50\n") == (None, None)
    tags = struct.pack(">QHHQQHHQHxxxxxx", 2, 256, 4, 1, 70 << 32, 257, 3, 1, 50)
    assert read_header(b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + tags) == ("tiff", (50, 70))
