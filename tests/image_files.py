"""Image files of many kinds, as bytes: those that the runtime reads, with their right pixels, and those it refuses.

data, pixels = RIGHT["palette.png"]
every = odd_files()                  # also kinds that take Pillow: CMYK, GIF, animations, interlaced rows
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    assert done
    return data.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def animated(still: bytes) -> bytes:
    """A PNG that says it is an animation of one frame."""
    return still[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + still[33:]  # after the signature and IHDR


def palette_png() -> bytes:
    palette = bytes([255, 0, 0, 0, 0, 255])  # red, blue
    rows = b"".join(b"\0" + bytes([0, 0, 1]) for _ in range(2))
    header = struct.pack(">IIBBBBB", 3, 2, 8, 3, 0, 0, 0)
    return png(header, chunk(b"PLTE", palette), chunk(b"IDAT", zlib.compress(rows)))


def rotated_jpeg(orientation: int = 6) -> bytes:
    """8 rows, 24 columns, left part black, right white; EXIF orientation 6: a viewer turns it clockwise."""
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 16:] = 255
    data = encoded(".jpg", image)
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08" + struct.pack(">H", 1) + entry + b"\0\0\0\0"
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


RIGHT = {  # name -> file, uint8 [H, W, 3] BGR
    "color.png": (encoded(".png", IMAGE), IMAGE),
    "color.bmp": (encoded(".bmp", IMAGE), IMAGE),
    "color.ppm": (encoded(".ppm", IMAGE), IMAGE),
    "color.tiff": (encoded(".tiff", IMAGE), IMAGE),
    "lossless.webp": (encoded(".webp", IMAGE, cv2.IMWRITE_WEBP_QUALITY, 101), IMAGE),
    "name without suffix": (encoded(".png", IMAGE), IMAGE),
    "grey.png": (encoded(".png", IMAGE[:, :, 0]), np.repeat(IMAGE[:, :, :1], 3, 2)),
    "grey.pgm": (encoded(".pgm", IMAGE[:, :, 0]), np.repeat(IMAGE[:, :, :1], 3, 2)),
    "sixteen.png": (encoded(".png", IMAGE.astype(np.uint16) * 257), IMAGE),
    "sixteen.tiff": (encoded(".tiff", IMAGE.astype(np.uint16) * 257), IMAGE),
    "grey16.png": (encoded(".png", IMAGE[:, :, 0].astype(np.uint16) * 257), np.repeat(IMAGE[:, :, :1], 3, 2)),
    "alpha.png": (encoded(".png", np.dstack([IMAGE, IMAGE[:, :, 1]])), IMAGE),
    "alpha16.png": (encoded(".png", np.dstack([IMAGE, IMAGE[:, :, 1]]).astype(np.uint16) * 257), IMAGE),
    "palette.png": (palette_png(), np.array([[[0, 0, 255], [0, 0, 255], [255, 0, 0]]] * 2, np.uint8)),
    "one pixel.png": (encoded(".png", IMAGE[:1, :1]), IMAGE[:1, :1]),
    "long.png": (encoded(".png", np.full((20000, 1, 3), 7, np.uint8)), np.full((20000, 1, 3), 7, np.uint8)),
    "wide.bmp": (encoded(".bmp", np.full((1, 3000, 3), 7, np.uint8)), np.full((1, 3000, 3), 7, np.uint8)),
    "trailer.png": (encoded(".png", IMAGE) + b"\0" * 9000, IMAGE),
}
HUGE = png(struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), chunk(b"IDAT", zlib.compress(b"\0" * 100)))


def odd_files() -> dict[str, bytes]:
    """Files of every kind that a user may have, most of them images."""
    files = {name: data for name, (data, _) in RIGHT.items()}
    files |= {f"orientation {number}": rotated_jpeg(number) for number in range(1, 9)}
    files |= {
        "photo.jpg": encoded(".jpg", NOISE),
        "grey.jpg": encoded(".jpg", NOISE[:, :, 0]),
        "progressive.jpg": encoded(".jpg", NOISE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restarts.jpg": encoded(".jpg", NOISE, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        "lossy.webp": encoded(".webp", NOISE, cv2.IMWRITE_WEBP_QUALITY, 80),
        "alpha.webp": encoded(".webp", np.dstack([IMAGE, IMAGE[:, :, 1]])),
        "packed.tiff": encoded(".tiff", NOISE, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "float.tiff": encoded(".tiff", IMAGE.astype(np.float32)),
        "huge.png": HUGE,
        "empty": b"",
        "text": b"this is no picture",
        "script": b"#!/bin/sh\necho \xc3\xa9\n",
        "document": b"%PDF-1.7 \xff\xfe\xfd" * 20,
        "archive": b"PK\x03\x04" + bytes(60),
        "program": b"\x7fELF" + bytes(60),
        "float.pfm": b"PF\n3 2\n-1.0\n" + bytes(72),
        "high range.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 3\n" + bytes(24),
    }
    return files | _files_of_pillow()


def _files_of_pillow() -> dict[str, bytes]:
    try:
        from PIL import Image
    except ImportError:
        return {}
    color = Image.fromarray(NOISE[:24, :40])
    grey = color.convert("L")

    def saved(image: Any, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return {
        "print.jpg": saved(color.convert("CMYK"), "JPEG"),
        "still.gif": saved(color, "GIF"),
        "moving.gif": saved(color, "GIF", save_all=True, append_images=[color.rotate(90)]),
        "moving.webp": saved(color, "WEBP", save_all=True, append_images=[color.rotate(90)]),
        "moving.png": saved(color, "PNG", save_all=True, append_images=[color.rotate(90)]),
        "bits.png": saved(color.convert("1"), "PNG"),
        "clear.png": saved(color.quantize(16), "PNG", transparency=3),
        "grey alpha.png": saved(grey.convert("LA"), "PNG"),
        "palette.bmp": saved(color.quantize(256), "BMP"),
        "bits.bmp": saved(color.convert("1"), "BMP"),
        "pages.tiff": saved(color, "TIFF", save_all=True, append_images=[grey], compression="tiff_deflate"),
        "print.tiff": saved(color.convert("CMYK"), "TIFF"),
        "fax.tiff": saved(color.convert("1"), "TIFF", compression="group4"),
        "jpeg.tiff": saved(color, "TIFF", compression="jpeg"),
        "bits.pbm": saved(color.convert("1"), "PPM"),
        "wavelets.jp2": saved(color, "JPEG2000"),
        "icon.ico": saved(color, "ICO"),
        "still.tga": saved(color, "TGA"),
    }
