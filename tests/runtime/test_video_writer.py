"""A video is there once it is whole, holds every picture at one size, and refuses names and codecs before any work."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.runtime import index_files
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.video_writer import CODECS, VideoFile

GREY = np.full((33, 51, 3), 128, np.uint8)  # odd sizes, which most codecs do not take


def frames_in(file) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(file))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    return frames


@pytest.mark.parametrize("suffix", CODECS)
def test_each_format_is_written_and_read(tmp_path, suffix, capfd):
    file = tmp_path / f"a{suffix}"
    with VideoFile(file) as video:
        video.write(GREY, rate=5.0)
        video.write(GREY, times=3)
    assert video.frames == 4
    frames = frames_in(file)
    assert len(frames) == 4
    assert frames[0].shape == (34, 52, 3)
    assert abs(frames[3][:32, :48].mean() - 128) < 8  # most formats hold 219 levels of brightness
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert capfd.readouterr().err == ""


def test_other_sizes_are_fitted_on_black(tmp_path):
    with VideoFile(tmp_path / "a.avi") as video:
        video.write(np.full((40, 80, 3), 200, np.uint8))
        video.write(np.full((80, 40, 3), 200, np.uint8))
    last = frames_in(tmp_path / "a.avi")[1]
    assert last.shape == (40, 80, 3)
    assert last[:, :16].min() > 180
    assert last[:, 32:].max() < 20


def test_after_an_error_or_without_pictures_there_is_none(tmp_path):
    with pytest.raises(RuntimeError), VideoFile(tmp_path / "a.avi") as video:
        video.write(GREY)
        raise RuntimeError
    with VideoFile(tmp_path / "b.avi"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "codec", "message"),
    [
        ("a.gif", None, r"--video: expected a file name ending in \.mp4"),
        ("folder.mp4", None, "--video: expected the name of a file to write"),
        ("a.mp4", "QQQQ", "OpenCV here cannot write 'QQQQ'"),
        ("a.mp4", "abc", "--codec: expected four characters such as mp4v, got 'abc'"),
    ],
)
def test_what_cannot_be_written(tmp_path, capfd, name, codec, message):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=message):
        VideoFile(tmp_path / name, codec)
    assert capfd.readouterr().err == ""


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@settings(deadline=None, max_examples=30)
@given(st.lists(JSON, max_size=8), st.text())
def test_long_lists_are_written_as_json_writes_them(tmp_path_factory, entries, about):
    file = tmp_path_factory.mktemp("index") / "a.json"
    with index_files.JsonList() as found:
        found.extend(entries)
        index_files.write_object(file, {"images": found, "about": about})
        assert file.read_text() == json.dumps({"images": entries, "about": about}) + "\n"
        index_files.write_list(file, found)
        assert file.read_text() == json.dumps(entries) + "\n"
        assert len(found) == len(entries)
