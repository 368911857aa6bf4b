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
