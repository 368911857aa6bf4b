"""An engine as MLPerf LoadGen sees it: a system under test that answers queries, and a library of samples.

    system = SystemUnderTest(loadgen, work, batch=1, queued=False)     # work([3]): segments image 3
    loadgen.ConstructSUT(system.issue, system.flush)

An exception that leaves a callback ends the process: LoadGen is C++ with threads of its own. So the first one is kept,
as is Ctrl-C, which could come at any place in a callback: what is asked after it is answered without work, and the run
comes to its end.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mask2edge.benchmarks.timed_engine import TimedEngine
from mask2edge.runtime.command_line import InputError, say

Work = Callable[[Sequence[int]], object]  # the samples of one batch, by their places among the images
_Asked = tuple[int, int]  # LoadGen's number of the sample's query, and the sample's place


class SystemUnderTest:
    """Answers samples batch by batch: in the thread that asks, or `queued`, in one of its own.

    A server's queries come whether or not the last was answered: they wait in the queue, and each batch is as many of
    them as wait, up to the engine's largest.
    """

    def __init__(self, loadgen: Any, work: Work, batch: int, queued: bool) -> None:
        self._loadgen = loadgen
        self._work = work
        self._batch = batch
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="system-under-test", daemon=True) if queued else None
        self.error: BaseException | None = None
        self.answered = 0
        if self._thread:
            self._thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's query. Its objects do not outlive the call."""
        asked = [(sample.id, sample.index) for sample in samples]
        if self._thread:
            for one in asked:
                self._waiting.put(one)
            return
        for start in range(0, len(asked), self._batch):
            self._answer(asked[start : start + self._batch])

    def flush(self) -> None:
        """LoadGen has asked everything. Nothing is held back here."""

    def close(self) -> None:
        """Ends the thread, once everything is answered."""
        if self._thread:
            self._waiting.put(None)
            self._thread.join()

    @contextlib.contextmanager
    def ctrl_c_is_kept(self) -> Iterator[None]:
        """The second Ctrl-C ends the process at once. In the main thread; elsewhere there is nothing to do."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def keep(number: int, frame: object) -> None:
            self.error = self.error or KeyboardInterrupt()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            say("interrupted; LoadGen ends its run, or Ctrl-C once more")

        before = signal.signal(signal.SIGINT, keep)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _serve(self) -> None:
        while (one := self._waiting.get()) is not None:
            batch = [one]
            while len(batch) < self._batch and not self._waiting.empty():
                if (more := self._waiting.get()) is None:
                    self._waiting.put(None)
                    break
                batch.append(more)
            self._answer(batch)

    def _answer(self, asked: Sequence[_Asked]) -> None:
        if self.error is None:
            try:
                self._work([place for _, place in asked])
            except BaseException as error:
                self.error = self.error or error
        self.answered += len(asked)
        # No data: the answers' content counts in LoadGen's accuracy mode alone; accuracy.py measures that.
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(query, 0, 0) for query, _ in asked])


def end_to_end(engine: TimedEngine) -> Work:
    """Images to masks."""
    return lambda places: engine.segmenter([engine.images[place] for place in places], engine.task)


def network_alone(engine: TimedEngine) -> Work:
    """Pixels, prepared beforehand, to logits. Raises InputError for images that cannot share a batch."""
    least = engine.segmenter.spec.profile.min[0]
    pixels = [engine.segmenter.prepare([image])[0][:1] for image in engine.images]  # [1, 3, H, W] each
    if len({one.shape for one in pixels}) > 1:
        raise InputError(
            f"{engine.name}: --network-only: expected images that have one size inside the network, got several; "
            "name images of one size, or an engine of a fixed size"
        )

    def work(places: Sequence[int]) -> object:
        chosen = [pixels[place] for place in places]
        chosen += chosen[-1:] * (least - len(chosen))  # an engine of a fixed batch takes no less
        return engine.segmenter.session.run(chosen[0] if len(chosen) == 1 else np.concatenate(chosen))  # [N, 3, H, W]

    return work
