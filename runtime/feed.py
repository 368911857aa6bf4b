"""Between a source and the pipeline: a thread that takes pictures from the source and keeps a few, or the newest.

    with Feed(pictures, ended=lambda: stop.received is not None) as feed:
        for frame in stream(segmenter, feed): ...

A picture with `droppable` set gives way to the next one where nobody has asked for it yet; the source of any other
waits. Holds HELD pictures at most.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from mask2edge.runtime.pictures import Picture

HELD = 2
LOOK = 0.1  # seconds between two looks at `ended`
FAREWELL = 2.0  # seconds for a source that is in the middle of a read


class Feed:
    """Iterates over the pictures in order, in any one thread. Raises what the source raises, after its pictures."""

    def __init__(self, pictures: Iterable[Picture], ended: Callable[[], bool] = lambda: False) -> None:
        self.dropped = 0
        self._pictures = pictures
        self._ended = ended
        self._held: deque[Picture] = deque()
        self._changed = threading.Condition()
        self._done = self._closed = False
        self._error: BaseException | None = None
        # A daemon: a camera that hangs in a driver must not keep the process alive.
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(FAREWELL)

    def __iter__(self) -> Iterator[Picture]:
        while True:
            with self._changed:
                while not (self._held or self._done or self._over()):
                    self._changed.wait(LOOK)
                if self._over():
                    return
                if not self._held:
                    if self._error is not None:
                        raise self._error
                    return
                picture = self._held.popleft()
                self._changed.notify_all()
            yield picture

    def _over(self) -> bool:
        return self._closed or self._ended()

    def _fill(self) -> None:
        try:
            for picture in self._pictures:
                if not self._put(picture):
                    break
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(self._pictures, "close", None)
            if close is not None:
                close()  # a generator's cameras and files, in the thread that reads them
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _put(self, picture: Picture) -> bool:
        """False where no more are wanted."""
        with self._changed:
            if picture.droppable and self._held and self._held[-1].droppable:
                self._held.pop()
                self.dropped += 1
            while len(self._held) >= HELD and not self._over():
                self._changed.wait(LOOK)
            if self._over():
                return False
            self._held.append(picture)
            self._changed.notify_all()
        return True
