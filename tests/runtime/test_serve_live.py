"""The live view: the newest frame with its segments, shared by its watchers, and what a lost source answers."""

import base64
import concurrent.futures
import time

import cv2
import numpy as np
import pytest
from serving import Slow, check_refused, running, until, write_video

from mask2edge.runtime import serve as cli
from mask2edge.runtime.answer import answer as real_answer
from mask2edge.runtime.live_source import NewestFrame

pytest.importorskip("onnxruntime")


def test_the_live_view_gives_the_newest_frame_and_its_segments(segmenter, picture, tmp_path):
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    video = write_video(tmp_path / "clip.avi", [picture, mirrored] * 3)
    with NewestFrame(str(video)) as source, running(segmenter, source=source) as server:
        seen, sides = [], set()
        after = 0
        for _ in range(8):
            answer = server.client.get("/live", params={"after": after, "task": "panoptic"})
            assert answer.status_code == 200, answer.text
            content = answer.json()
            after = content["frame"]
            seen.append(after)
            frame = cv2.imdecode(np.frombuffer(base64.b64decode(content["image"]), np.uint8), cv2.IMREAD_COLOR)
            assert frame.shape == picture.shape
            ball = next(one for one in content["segments"] if one["label"] == "ball")
            sides.add(ball["box"][0] < 10)
            assert (frame[30, 10, 2] > 200) == (ball["box"][0] < 10) or (frame[30, 10] > 200).all()
        assert seen == sorted(set(seen))
        assert sides == {True, False}
        assert server.client.get("/info").json()["source"] == "live"
        time.sleep(0.35)  # frames of the meantime are passed over
        assert server.client.get("/live", params={"after": after}).json()["frame"] > after + 2


@pytest.mark.parametrize(("task", "least"), [("panoptic", 0), ("instance", 0.5)])
def test_segments_keep_their_ids_and_colours_from_frame_to_frame(segmenter, picture, task, least):
    """In the second frame a ball comes, which the network has before the leaf."""
    leaf = np.full_like(picture, 255)  # [H, W, 3]: white with a green part
    leaf[:, 48:] = (0, 255, 0)
    both = leaf.copy()
    both[:, :48] = (0, 0, 255)

    class Scripted:
        newest, state = (1, leaf), "live"

    alone = [one.id for one in segmenter(both, task).segments if one.label == "leaf" and one.score >= 0.5]
    with running(segmenter, source=Scripted()) as server:

        def look(number: int, frame: np.ndarray) -> dict[str, tuple[int, list[int]]]:
            Scripted.newest = (number, frame)
            query = {"task": task, "min_score": least}
            segments = server.client.get("/live", params=query).json()["segments"]
            return {one["label"]: (one["id"], one["color"]) for one in segments}

        first, second, third = look(1, leaf), look(2, both), look(3, leaf)
    assert first["leaf"] == second["leaf"] == third["leaf"]
    assert second["ball"] != second["leaf"]
    assert alone != [first["leaf"][0]]  # by itself the frame has another


def test_watchers_share_the_work_on_a_frame(segmenter, picture):
    class Still:
        newest, state = (1, picture), "live"

    slow = Slow(segmenter)
    with running(slow, source=Still(), waiting=0) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        watching = [pool.submit(server.client.get, "/live") for _ in range(4)]
        until(lambda: slow.begun == 1)
        time.sleep(0.2)
        slow.go.set()
        assert {future.result().status_code for future in watching} == {200}
    assert slow.begun == 1


def test_answers_for_watchers_are_few_and_failures_are_not_kept(segmenter, picture, monkeypatch):
    class Still:
        newest, state = (1, picture), "live"

    made = []
    monkeypatch.setattr(
        "mask2edge.runtime.http_app.answer", lambda *given, **more: made.append(given) or real_answer(*given, **more)
    )
    with running(segmenter, source=Still()) as server:
        monkeypatch.setattr(segmenter, "timed", lambda *_: (_ for _ in ()).throw(cli.InputError("a failure")))
        check_refused(server.client.get("/live"), 500, "the engine failed")
        monkeypatch.delattr(segmenter, "timed")
        assert server.client.get("/live").status_code == 200
        made.clear()
        for score in range(40):
            assert server.client.get("/live", params={"min_score": score / 100}).status_code == 200
        assert len(made) == 39  # 0 is the default, which was there
        server.client.get("/live", params={"min_score": 0.39})
        assert len(made) == 39
        server.client.get("/live", params={"min_score": 0.01})
        assert len(made) == 40  # dropped for newer ones


def test_a_source_that_is_lost_is_a_503(segmenter, monkeypatch):
    class Lost:
        newest, state = (0, None), "lost"

    monkeypatch.setattr("mask2edge.runtime.http_app.FRAME_SECONDS", 0.1)
    with running(segmenter, source=Lost()) as server:
        check_refused(server.client.get("/live"), 503, "no frame from the source within 0.1 s (lost)")
        assert server.client.get("/healthz").json() == {"status": "ok", "source": "lost"}
