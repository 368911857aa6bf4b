"""A server of a tiny engine in a thread of the test's own process, and what its clients need."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from mask2edge.runtime import rle
from mask2edge.runtime import serve as cli
from mask2edge.runtime.http_app import Service
from mask2edge.runtime.http_limits import Limits
from mask2edge.runtime.segmenter import Segmenter


@dataclass
class Running:
    client: httpx.Client
    service: Service
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running(segmenter: Segmenter, token: str | None = None, source: Any = None, **limits: Any) -> Iterator[Running]:
    """A server that is up; it has ended on leaving."""
    listener = cli._listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    service = Service(segmenter, "toy", source)
    thread = threading.Thread(target=cli.run, args=(service, Limits(**limits), listener, token, []), daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        until(lambda: answers(client))
        try:
            yield Running(client, service, port, thread)
        finally:
            service.stopping.set()
            thread.join(60)
            listener.close()
            assert not thread.is_alive()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def encoded(picture: np.ndarray, suffix: str = ".png") -> bytes:
    done, data = cv2.imencode(suffix, picture)
    assert done
    return data.tobytes()


def write_video(path: Path, frames: list[np.ndarray], rate: float = 10) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


class Slow:
    """A segmenter whose work waits until it is let go."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self.go, self.begun = segmenter, threading.Event(), 0

    def __getattr__(self, name):
        return getattr(self._segmenter, name)

    def with_thresholds(self, *_):
        return self

    def timed(self, image, task):
        self.begun += 1
        assert self.go.wait(60)
        return self._segmenter.timed(image, task)


def check_same(answer: dict, result) -> None:
    """An answer of the server is what the Segmenter itself gives."""
    assert (answer["task"], answer["height"], answer["width"]) == (result.task, *result.size)
    assert len(answer["segments"]) == len(result.segments)
    for got, segment in zip(answer["segments"], result.segments, strict=True):
        assert (got["id"], got["label"], got["label_id"]) == (segment.id, segment.label, segment.label_id)
        assert (got["area"], tuple(got["box"]), got["is_thing"]) == (segment.area, segment.box, segment.is_thing)
        assert got["score"] == pytest.approx(segment.score, abs=1e-5)
        assert got["rle"] == segment.rle
        mask = rle.decode(rle.from_string(got["rle"]["counts"]), tuple(got["rle"]["size"]))
        np.testing.assert_array_equal(mask, segment.mask)


def check_refused(answer: httpx.Response, status: int, reason: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert reason in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
