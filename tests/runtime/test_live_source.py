"""The newest frame of a source: in order, at the file's own pace, again from the start, and opened anew when lost."""

import time

import numpy as np
import pytest
from serving import until, write_video

from mask2edge.runtime import live_source
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
        ("9", "--source 9: OpenCV cannot open it"),
        ("http://user:secret@127.0.0.1:1/film", "--source http://127.0.0.1:1/film: OpenCV cannot open it"),
    ],
)
def test_what_cannot_be_opened_is_said_at_once(source, message):
    with pytest.raises(InputError, match=message):
        NewestFrame(source)


def test_a_source_without_frames_counts_as_lost(tmp_path, monkeypatch):
    with NewestFrame(str(write_video(tmp_path / "clip.avi", [grey(20)] * 5))) as source:
        assert source.state == "live"
        monkeypatch.setattr(live_source, "STALE_SECONDS", 0.0)
        assert source.state == "lost"


def test_a_camera_that_is_lost_is_opened_anew(monkeypatch, capsys):
    class Camera:
        opened, works = 0, True

        def __init__(self, index):
            assert index == 0
            Camera.opened += 1
            self.left = 3

        def isOpened(self):
            return Camera.works

        def read(self):
            self.left -= 1
            if self.left < 0 and Camera.opened % 2:
                raise live_source.cv2.error("a driver's failure")
            return self.left >= 0, grey(100)

        def set(self, *_):
            pass

        def release(self):
            pass

    monkeypatch.setattr(live_source.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(live_source, "FIRST_WAIT", 0.01)
    with NewestFrame("0") as source:
        until(lambda: Camera.opened >= 3)
        assert source.newest[0] >= 3
        Camera.works = False
        until(lambda: source.state == "lost")
        Camera.works = True
        before = source.newest[0]
        until(lambda: source.newest[0] > before)
    assert "--source 0: lost; opening it anew" in capsys.readouterr().err
