"""Image files: colours and ids as written, and whatever is damaged refused by name without a decoder's own words."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime.command_line import InputError
from mask2edge.train.data.image_file import read_ids, read_index_map, read_rgb

SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8), (200, 160))


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 2**24 - 1))
def test_an_id_is_red_and_256_green_and_65536_blue(tmp_path_factory: pytest.TempPathFactory, number: int) -> None:
    path = tmp_path_factory.mktemp("ids") / "a.png"
    red, green, blue = number & 255, number >> 8 & 255, number >> 16
    cv2.imwrite(str(path), np.full((2, 3, 3), (blue, green, red), np.uint8))
    ids = read_ids(path)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[number] * 3] * 2


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, part: float
) -> None:
    path = tmp_path / f"a{suffix}"
    data = cv2.imencode(suffix, SMOOTH)[1].tobytes()
    path.write_bytes(data)
    assert np.abs(read_rgb(path)[:, :, ::-1].astype(int) - SMOOTH).mean() < 5
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=rf"a\{suffix}: expected a whole image, got \d+ bytes that end before"):
        read_rgb(path)
    assert capfd.readouterr().err == ""


def test_a_jpeg_without_its_end_marker_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(cv2.imencode(".jpg", SMOOTH)[1].tobytes()[:-2])
    with pytest.raises(InputError, match="expected a whole image"):
        read_rgb(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_a_camera_appends_does_no_harm(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = cv2.imencode(suffix, SMOOTH)[1].tobytes()
    path.write_bytes(data + bytes(len(data) // 2))
    assert read_rgb(path).shape == SMOOTH.shape


def test_what_is_no_image_is_refused_without_other_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    data = bytearray(cv2.imencode(".png", SMOOTH)[1].tobytes())
    data[12:40] = bytes(28)  # the header is gone
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: expected an image, got \d+ bytes that OpenCV cannot decode"):
        read_rgb(path)
    with pytest.raises(InputError, match=r"b\.png: cannot be read \(No such file or directory\)"):
        read_index_map(tmp_path / "b.png")
    assert capfd.readouterr().err == ""
