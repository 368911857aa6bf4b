"""Every kind of image file gives uint8 BGR, upright; everything else gives one clear line."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import HUGE, IMAGE, NOISE, RIGHT, animated, encoded, rotated_jpeg

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import find_images, read_image


def huge_tiff() -> bytes:
    """A sound one whose width and height were changed."""
    data = bytearray(encoded(".tiff", IMAGE))
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 60_000)
    return bytes(data)


def many_scans() -> bytes:
    data = encoded(".jpg", NOISE)
    scan = data.index(b"\xff\xda")
    return data[:scan] + b"\xff\xda\x00\x02" * 200 + data[scan:]


WRONG = {
    "empty.jpg": (b"", "got an empty file"),
    "text.jpg": (b"this is no picture", "got a text file"),
    "random.png": (bytes(range(128, 256)) * 4, "a damaged image or a file of another kind"),
    "cut.jpg": (encoded(".jpg", NOISE)[:1500], "a whole JPEG image, got one that is cut off"),
    "head.jpg": (encoded(".jpg", NOISE)[:100], "a whole JPEG image, got one that is cut off"),
    "animated.png": (animated(encoded(".png", NOISE)), "a still image, got an animated PNG"),
    "cut.png": (encoded(".png", NOISE)[:1500], "a whole PNG image, got one that is cut off"),
    "huge.png": (HUGE, "at most 268435456 pixels, got 100000x100000"),
    "huge.tiff": (huge_tiff(), "at most 268435456 pixels, got 60000x60000"),
    "huge.ppm": (b"P6 60000 60000 255\n" + bytes(100), "at most 268435456 pixels, got 60000x60000"),
    "huge.gif": (b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(100), "at most 268435456 pixels"),
    "high range.hdr": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n", "got a text file"),
    "wavelets.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "a damaged image or a file of another kind"),
    "scans.jpg": (many_scans(), "a JPEG of at most 100 scans"),
    "no size.tiff": (b"II*\0\x08\0\0\0\0\0", "a whole TIFF image, got one that is cut off or damaged"),
    "float.tiff": (encoded(".tiff", IMAGE.astype(np.float32)), "8 or 16 bits a channel, got float32"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_files_become_bgr(tmp_path, name):
    data, expected = RIGHT[name]
    (tmp_path / name).write_bytes(data)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_is_one_line(tmp_path, name):
    data, message = WRONG[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    cv2.imwrite(str(tmp_path / "all.png"), values)
    np.testing.assert_array_equal(read_image(tmp_path / "all.png")[:, :, 0], np.round(values / 257).astype(np.uint8))


def test_orientation_is_applied(tmp_path):
    (tmp_path / "phone.jpg").write_bytes(rotated_jpeg())
    image = read_image(tmp_path / "phone.jpg")
    assert image.shape == (24, 8, 3)
    assert image[:14].max() < 30
    assert image[18:].min() > 225


def test_cmyk_becomes_color(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (16, 8), (200, 30, 40)).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "print.jpg"), np.full((8, 16, 3), (40, 30, 200)), atol=4)


def test_a_thumbnails_end_is_not_the_images(tmp_path):
    thumbnail = encoded(".jpg", NOISE[:8, :8])
    data = encoded(".jpg", NOISE)
    comment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "whole.jpg").write_bytes(data[:2] + comment + data[2:])
    assert read_image(tmp_path / "whole.jpg").shape == NOISE.shape
    (tmp_path / "cut.jpg").write_bytes((data[:2] + comment + data[2:])[:-800])
    with pytest.raises(InputError, match="cut off"):
        read_image(tmp_path / "cut.jpg")


def test_missing_files_and_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


def test_sources_are_files_folders_and_globs(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "c[1].png", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "d.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)

    def names(*sources: str) -> list[str]:
        return [path.as_posix() for path in find_images(sources)]

    assert names(".") == ["a.PNG", "b.jpg", "c[1].png"]
    assert names("b.jpg", ".") == ["b.jpg", "a.PNG", "c[1].png"]  # each once
    assert names("c[1].png") == ["c[1].png"]  # a name before a pattern
    assert names("**/*.jpg") == ["b.jpg", "inner/d.jpg"]
    assert names("notes.txt") == ["notes.txt"]  # named by itself, it is tried


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jpg", "no such file or folder"),
        ("*.gif", "a pattern that matches images, got none"),
        ("empty", "in this folder, got none"),
        ("film.mp4", "expected images here, got a video"),
        ("0", "expected images here, got a camera or stream"),
        ("rtsp://camera/1", "expected images here, got a camera or stream"),
    ],
)
def test_sources_that_name_no_image(tmp_path: Path, monkeypatch, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        find_images([source])
