"""A TensorRT build that says how far it is and can be stopped: its progress monitor, and Ctrl-C.

    progress = BuildProgress()
    config.progress_monitor = progress.monitor(tensorrt)
    plan = progress.run(lambda: builder.build_serialized_network(network, config))

The build runs in a thread of its own: a signal reaches Python's main thread only between instructions, and the one call
that builds may take an hour. Ctrl-C makes the monitor answer TensorRT's next question with "stop".
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mask2edge.runtime.command_line import say

SECONDS = 2.0  # between two lines
Result = TypeVar("Result")


class BuildProgress:
    def __init__(
        self, write: Callable[[str], None] = say, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._seconds = seconds
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # TensorRT may call from several threads
        self._phases: dict[str, tuple[int, int]] = {}  # in the order of their start: name -> steps done, all steps
        self._parents: dict[str, str | None] = {}
        self._clock = clock
        self._said = clock()

    def monitor(self, trt: Any) -> Any:
        """An IProgressMonitor of TensorRT's. It is to be kept for as long as the build runs."""
        progress = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            # An exception that leaves one of these methods would end the process, so none does.
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                progress.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                progress.finish(phase_name)

        return Monitor()

    def run(self, build: Callable[[], Result]) -> Result:
        """Calls `build` in a thread and waits. Raises what it raises, or KeyboardInterrupt once Ctrl-C stopped it."""
        outcome: list[Result] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                outcome.append(build())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=work, name="build")
        with self._control_c_stops():
            thread.start()
            done.wait()
            thread.join()
        if self._stopped.is_set():
            raise KeyboardInterrupt
        if errors:
            raise errors[0]
        return outcome[0]

    def stop(self) -> None:
        """Ends the build at TensorRT's next question; from any thread."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._say("stopping; TensorRT finishes the kernel that it measures")

    @contextlib.contextmanager
    def _control_c_stops(self) -> Iterator[None]:
        usual = signal.getsignal(signal.SIGINT)
        # Signals are the main thread's; one that is ignored (nohup) or handled by C code stays so.
        if threading.current_thread() is not threading.main_thread() or usual in (signal.SIG_IGN, None):
            yield
            return
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = (0, int(steps))
            self._parents[name] = parent

    def step(self, name: str, step: int) -> bool:
        """Whether to go on."""
        with self._lock:
            _, steps = self._phases.get(name, (0, 0))
            self._phases[name] = (int(step) + 1, steps)
            now = self._clock()
            if now - self._said >= self._seconds:
                self._said = now
                self._say(self._line(name))
        return not self._stopped.is_set()

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)
            self._parents.pop(name, None)

    def _line(self, name: str) -> str:
        """The phase and those that it is a part of, the outermost first."""
        chain: list[str] = []
        phase: str | None = name
        while phase is not None and phase in self._phases and phase not in chain:
            chain.insert(0, phase)
            phase = self._parents.get(phase)
        counted = [(one, *self._phases[one]) for one in chain]
        return "building: " + ", ".join(f"{one} {min(done, steps)}/{steps}" for one, done, steps in counted)

    def _say(self, line: str) -> None:
        try:
            self._write(line)
        except OSError:  # whoever read stderr has gone
            self._write = _nothing


def _nothing(line: str) -> None:
    pass
