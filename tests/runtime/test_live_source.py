"""The newest frame of a source: in order, at the file's own pace, again from the start, and opened anew when lost."""

import time

import numpy as np
import pytest
from serving import until, write_video

from mask2edge.runtime import live_source, video_source
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.live_source import NewestFrame


def grey(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def test_a_file_plays_again_and_again_and_the_newest_frame_wins(tmp_path):
    video = write_video(tmp_path / "clip.avi", [grey(value) for value in (20, 90, 160, 230)], rate=20)
    with NewestFrame(str(video)) as source:
        seen = {}
        end = time.monotonic() + 60
        while len(seen) < 7 and time.monotonic() < end:
            number, frame = source.newest
            if frame is not None:
                seen[number] = int(frame.mean())
            time.sleep(0.005)
        assert source.state == "live"
    for number, value in seen.items():
        assert value == pytest.approx((20, 90, 160, 230)[(number - 1) % 4], abs=4)
    assert max(seen) >= 5  # beyond the file's end
    last = source.newest[0]
    time.sleep(0.15)
    assert source.newest[0] == last  # closed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.mp4", "--source missing.mp4: expected a video file, .* no such file"),
        ("9", "9: no such camera"),
        ("http://user:secret@127.0.0.1:1/film", "^http://127.0.0.1:1/film: the stream cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_said_at_once(source, message):
    with pytest.raises(InputError, match=message):
        NewestFrame(source)


def test_a_file_that_has_gone_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(live_source, "PAUSE", 0.01)
    monkeypatch.setattr(live_source, "STALE_SECONDS", 0.5)
    video = write_video(tmp_path / "clip.avi", [grey(20)] * 5)
    with NewestFrame(str(video)) as source:
        until(lambda: source.newest[0] > 0)
        video.rename(tmp_path / "away.avi")
        until(lambda: source.state == "lost")
        (tmp_path / "away.avi").rename(video)
        until(lambda: source.state == "live")


def test_a_camera_that_is_lost_is_opened_anew(monkeypatch, capsys):
    class Camera:
        opened, works = 0, True

        def __init__(self, index):
            assert index == 0
            Camera.opened += 1
            self.left = 3

        def isOpened(self):
            return Camera.works

        def get(self, _):
            return 25.0

        def read(self):
            self.left -= 1
            if self.left < 0 and Camera.opened % 2:
                raise video_source.cv2.error("a driver's failure")
            return Camera.works and self.left >= 0, grey(100)

        def release(self):
            pass

    monkeypatch.setattr(video_source.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(video_source, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(live_source, "STALE_SECONDS", 0.3)
    with NewestFrame("0") as source:
        until(lambda: Camera.opened >= 3)
        assert source.newest[0] >= 3
        Camera.works = False
        until(lambda: source.state == "lost")
        Camera.works = True
        before = source.newest[0]
        until(lambda: source.newest[0] > before)
    assert "0: no frame; it is opened again until it answers" in capsys.readouterr().err
