"""Frames of videos and of live sources: which, in what order, and what happens where a source disappears."""

from itertools import islice

import cv2
import numpy as np
import pytest

from mask2edge.runtime import video_source
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.video_source import Sampling, VideoSource


@pytest.fixture
def film(tmp_path):
    """30 frames of 64x96 at 10 frames per second, each of its own grey."""
    file = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for index in range(30):
        writer.write(np.full((64, 96, 3), 8 * index, np.uint8))
    writer.release()
    return file


class Camera:
    """What cv2.VideoCapture is to a live source: each entry of `script` is one opening and how many frames it gives."""

    def __init__(self, script: list[int]) -> None:
        self.script = script
        self.opened = self.released = 0

    def __call__(self, *_: object) -> "Camera":
        self.left = self.script[self.opened] if self.opened < len(self.script) else -1
        self.opened += 1
        return self

    def isOpened(self) -> bool:
        return self.left >= 0

    def read(self):
        self.left -= 1
        return (True, np.zeros((8, 8, 3), np.uint8)) if self.left >= 0 else (False, None)

    def get(self, _):
        return 90_000.0  # as some streams say of their rate

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def camera(monkeypatch):
    def make(*script: int) -> Camera:
        camera = Camera(list(script))
        monkeypatch.setattr(video_source.cv2, "VideoCapture", camera)
        monkeypatch.setattr(video_source, "_sleep", lambda seconds, ended: waits.append(seconds))
        return camera

    waits: list[float] = []
    make.waits = waits
    return make


def test_all_frames_of_a_file_in_order(film):
    video = VideoSource(str(film))
    video.probe()
    assert (video.live, video.rate, video.count) == (False, 10.0, 30)
    pictures = list(video.frames(Sampling()))
    assert [picture.index for picture in pictures] == list(range(30))
    assert [picture.seconds for picture in pictures][:3] == [0.0, 0.1, 0.2]
    assert pictures[3].name == "film-000003"
    np.testing.assert_allclose([picture.read().mean() for picture in pictures], 8 * np.arange(30), atol=2)
    assert not any(picture.droppable for picture in pictures)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(every=7), [0, 7, 14, 21, 28]),
        (Sampling(most_per_second=2), [0, 5, 10, 15, 20, 25]),
        (Sampling(most_per_second=4), [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]),
        (Sampling(most_per_second=1000), list(range(30))),
        (Sampling(every=2, most_per_second=2), [0, 6, 10, 16, 20, 26]),
    ],
)
def test_sampling(film, sampling, expected):
    video = VideoSource(str(film))
    video.probe()
    assert [picture.index for picture in video.frames(sampling)] == expected


@pytest.mark.parametrize(
    ("address", "live", "stem", "label"),
    [
        ("0", True, "camera-0", "0"),
        ("/dev/null", True, "camera-null", "/dev/null"),  # as /dev/video0 is: a device
        ("rtsp://me:secret@cam.local:554/one", True, "cam-local-one", "rtsp://cam.local:554/one"),
        ("http://host/live", True, "host-live", "http://host/live"),
        ("https://host/a/film.MP4", False, "host-a-film-MP4", "https://host/a/film.MP4"),
        ("videotestsrc ! appsink", True, "pipeline", "videotestsrc ! appsink"),
        ("dir/film.mp4", False, "film", "dir/film.mp4"),
    ],
)
def test_addresses(address, live, stem, label):
    video = VideoSource(address)
    assert (video.live, video.stem, video.label) == (live, stem, label)


def test_a_device_is_opened_by_its_name_and_stays_a_camera_when_it_is_gone(camera, monkeypatch):
    source, given = camera(1), []
    monkeypatch.setattr(video_source.cv2, "VideoCapture", lambda *how: given.append(how) or source())
    video = VideoSource("/dev/null")
    monkeypatch.setattr(video_source, "is_device", lambda _: False)
    assert len(list(video.frames(Sampling(retries=2)))) == 1 + 1
    assert given == [("/dev/null", cv2.CAP_V4L2)] * 3


def test_a_stream_that_disappears_is_opened_again(camera, capsys):
    source = camera(3, 0, 0, 2)
    video = VideoSource("rtsp://me:secret@cam/1")
    video.probe()
    pictures = list(islice(video.frames(Sampling()), 5))
    assert [picture.index for picture in pictures] == [0, 1, 2, 3, 4]
    assert all(picture.droppable for picture in pictures)
    assert pictures[0].rate == 25.0
    assert camera.waits == [1, 2, 4]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rtsp://cam/1: no frame; attempt 1 of 5 to open it again in 1 s"
    assert source.opened == 4


def test_a_stream_that_stays_away_is_given_up(camera, capsys):
    source = camera(3)
    video = VideoSource("0")
    video.probe()
    *good, last = video.frames(Sampling(retries=7))
    assert len(good) == 3
    with pytest.raises(InputError, match="0: lost after 3 frames, and 7 attempts to open it again failed"):
        last.read()
    assert camera.waits == [1, 2, 4, 8, 16, 30, 30]
    assert source.released >= source.opened


def test_attempts_are_counted_in_a_row(camera):
    camera(1, 1, 1, 1, 1)
    assert len(list(VideoSource("0").frames(Sampling(retries=1)))) == 5 + 1


def test_no_attempts_after_the_end_was_asked_for(camera):
    camera(1)
    ended = []
    frames = VideoSource("0").frames(Sampling(), ended=lambda: bool(ended))
    next(frames)
    ended.append(True)
    assert list(frames) == []
    assert camera.waits == []


def test_a_file_that_is_cut_off_is_said(film, capfd):
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    video = VideoSource(str(film))
    video.probe()
    video.count = 30  # as the header of a whole file says
    frames = list(video.frames(Sampling()))
    assert 5 < len(frames) < 30
    assert f"ended after {len(frames)} frames, its header says 30" in capfd.readouterr().err
