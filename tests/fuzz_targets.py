"""What tests/runtime/test_fuzzing.py gives odd input to: three targets, each in a process of its own.

    with Fuzzed("images", engine) as target:
        target.check(ImageCase(b"\\x89PNG", None))    # AssertionError: what went wrong, and the file that has the input

A target may give a right result, or refuse its input in one line. An exception of another kind, a traceback in what the
process writes, the process's end, no reaction, and memory out of all proportion are failures. The input is in a file
before the target sees it, so that what kills the process is known: `pickle.load` of that file is the case.

To see one again:  python tests/fuzz_targets.py images ENGINE artifacts/fuzzing/images.pickle
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import json
import mmap
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from serving import running

from mask2edge.runtime import segment
from mask2edge.runtime.answer import EngineFailure, Options, answer
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.http_app import Service, _about
from mask2edge.runtime.http_limits import Limits, Refusal, check_image_header
from mask2edge.runtime.images import decode_image
from mask2edge.runtime.pictures import Picture
from mask2edge.runtime.segmenter import TASKS, Segmenter

FAILURES = Path(__file__).resolve().parents[1] / "artifacts" / "fuzzing"
HANG_SECONDS = 120.0  # a machine may be busy; a hang lasts
MOST_MEMORY = 1 << 30  # bytes of addresses that one input may add to the process's peak
PIXELS = 1 << 20  # the largest image here
BODY = 200_000  # bytes; the largest body here
PATIENCE = 0.25  # seconds that the server waits for the rest of a request


class Short:
    """Cases may be large, and the file has them whole."""

    def __repr__(self) -> str:
        return repr(vars(self))[:500]


@dataclass(frozen=True, repr=False)
class ImageCase(Short):
    data: bytes
    right: np.ndarray | None  # the pixels, where the file is a sound one


@dataclass(frozen=True, repr=False)
class EngineCase(Short):
    spec: bytes
    model: bytes | None  # None: the sound one


@dataclass(frozen=True, repr=False)
class RequestCase(Short):
    parts: tuple[bytes, ...]  # sent one after another
    end: str = "wait"  # then "wait" for the answer, "shut" the sending side, or "leave"
    right: dict[str, str] | None = None  # query of a sound request for the seed picture, whose answer is known


def seed_picture() -> np.ndarray:
    """uint8 [64, 96, 3] BGR in the toy engine's colours: left half red, right half blue over white."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = (0, 0, 255)
    image[:32, 48:] = (255, 0, 0)
    image[32:, 48:] = (255, 255, 255)
    return image


# ---- The process around a target ------------------------------------------------------------------------------------
class Fuzzed:
    def __init__(self, name: str, engine: Path, failures: Path = FAILURES, hang_seconds: float = HANG_SECONDS) -> None:
        self._name, self._engine, self._failures, self._hang_seconds = name, engine, failures, hang_seconds
        self._input = engine.parent / f"{name}.pickle"
        self._log = engine.parent / f"{name}.log"
        self.seen = 0

    def __enter__(self) -> Fuzzed:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # the process ends by itself
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()

    def check(self, case: Any) -> None:
        """Raises AssertionError."""
        data = pickle.dumps(case)
        self._input.write_bytes(data)
        begin = self._log.stat().st_size
        self._connection.send_bytes(data)
        self.seen += 1
        problem = self._reaction()
        said = self._log.read_bytes()[begin:].decode(errors="replace")
        if "Traceback" in said or "Fatal Python error" in said:
            problem = f"{problem or 'a traceback for the user'}\n{said[-4000:]}"
        if problem:
            self._failures.mkdir(parents=True, exist_ok=True)
            saved = shutil.copy(self._input, self._failures / self._input.name)
            if not self._process.is_alive():
                self._start()
            raise AssertionError(f"{self._name}: {problem}\nthe input is in {saved}")

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, other = spawn.Pipe()
        self._log.touch()
        self._process = spawn.Process(target=_serve_target, args=(self._name, self._engine, self._log, other))
        self._process.start()
        other.close()
        assert self._connection.recv() == "ready"

    def _reaction(self) -> str:
        if not self._connection.poll(self._hang_seconds):
            os.kill(self._process.pid, signal.SIGABRT)  # faulthandler writes where it is
            self._process.join()
            return f"no reaction within {self._hang_seconds:g} s"
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return f"the process ended with exit code {self._process.exitcode}"


def _serve_target(name: str, engine: Path, log: Path, connection: Any) -> None:
    """The process: takes cases, and says of each what went wrong, or an empty text."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
    faulthandler.enable()
    with TARGETS[name](engine) as check:
        connection.send("ready")
        while True:
            try:
                case = pickle.loads(connection.recv_bytes())
            except EOFError:
                return
            connection.send(_problem(check, case))


def _problem(check: Callable[[Any], None], case: Any) -> str:
    before = _peak()
    try:
        check(case)
    except Exception:
        return traceback.format_exc(limit=-12)
    more = _peak() - before
    return f"{more} bytes of memory for one input" if more > MOST_MEMORY else ""


def _peak() -> int:
    """The most bytes of addresses that this process has had."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmPeak:"))


# ---- The targets ----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def images(engine: Path) -> Iterator[Callable[[ImageCase], None]]:
    """An image file as segment.py reads it, and as a body that serve.py answers."""
    limits, path = Limits(pixels=PIXELS), engine.parent / "picture"
    with Segmenter.load(engine, threads=1) as segmenter:

        def decoded(data: bytes) -> tuple[np.ndarray | None, str]:
            try:
                return decode_image(data, "image", PIXELS), ""
            except InputError as error:
                _check_line(str(error))
                return None, str(error)

        def check(case: ImageCase) -> None:
            path.write_bytes(case.data)
            image, reason = decoded(case.data)
            if image is None:
                assert case.right is None, f"a sound file was refused: {reason}"
                if f"at most {PIXELS} pixels" not in reason:  # a file may be larger
                    with pytest.raises(InputError):
                        Picture("picture", "picture", path=path).read()
                return
            assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
            assert 0 < image.shape[0] * image.shape[1] <= PIXELS
            np.testing.assert_array_equal(Picture("picture", "picture", path=path).read(), image)
            if case.right is not None:
                np.testing.assert_array_equal(image, case.right)
            try:
                check_image_header(case.data, limits)
            except Refusal as refusal:
                _check_line(refusal.reason)
                return
            task, overlay = TASKS[len(case.data) % 3], len(case.data) % 2 == 0
            with contextlib.suppress(InputError):  # too long for a JPEG
                content = json.loads(answer(segmenter, image, Options(task, overlay=overlay)).body)
                assert (content["height"], content["width"]) == image.shape[:2]
                assert all(0 < one["area"] <= image.shape[0] * image.shape[1] for one in content["segments"])

        yield check


@contextlib.contextmanager
def engines(engine: Path) -> Iterator[Callable[[EngineCase], None]]:
    """An engine folder as segment.py uses it, files and all, and as serve.py shows and uses it."""
    folder, out, picture = (engine.parent / name for name in ("fuzzed.engine", "out", "seed.png"))
    cv2.imwrite(str(picture), seed_picture())
    sound = (engine / "model.onnx").read_bytes()

    def check(case: EngineCase) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_bytes(case.spec)
        for name in ("model.onnx", "model.plan"):
            (folder / name).write_bytes(sound if case.model is None else case.model)
        arguments = [str(folder), str(picture), "--out", str(out), "--threads", "1"]
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = segment.main(arguments)
        assert code in (0, 2), f"exit code {code}: {said.getvalue()}"
        if code:
            _check_line(said.getvalue().rstrip("\n"))
            assert said.getvalue().startswith("error: ")
        with contextlib.suppress(InputError), Segmenter.load(folder, threads=1) as segmenter:
            json.dumps(_about(Service(segmenter, "fuzzed"), Limits()), ensure_ascii=False, allow_nan=False).encode()
            for task in segmenter.spec.model.tasks:
                with contextlib.suppress(InputError, EngineFailure):  # an engine at fault is a 500 with a reason
                    json.loads(answer(segmenter, seed_picture(), Options(task, overlay=True)).body)

    yield check


@contextlib.contextmanager
def requests(engine: Path) -> Iterator[Callable[[RequestCase], None]]:
    """Bytes on a connection to a running server; every answer on it is judged, and then the server's health."""
    bounds = {"pixels": PIXELS, "bytes": BODY, "head_seconds": PATIENCE, "body_seconds": PATIENCE}
    with Segmenter.load(engine, threads=1) as segmenter, running(segmenter, **bounds) as server:

        def right_answer(query: dict[str, str]) -> Any:
            thresholds = {name: float(query[name]) for name in query if name not in ("task", "overlay")}
            options = Options(query.get("task"), **thresholds)
            return json.loads(answer(segmenter, seed_picture(), options).body)["segments"]

        def check(case: RequestCase) -> None:
            statuses = [judge(*got) for got in _split_answers(_talk(server.port, case), case)]
            if case.end == "wait" and not statuses:
                raise AssertionError("the connection ended without an answer")
            if case.right is not None:
                got = server.client.post("/segment", content=case.parts[-1], params=case.right)
                if got.status_code != 408:  # a busy machine sends slowly
                    assert got.status_code == 200, got.text
                    assert got.json()["segments"] == right_answer(case.right)
            assert server.client.get("/healthz").status_code == 200

        def judge(status: int, headers: dict[str, str], body: bytes | None) -> int:
            if status >= 400 and body is not None:
                content = json.loads(body)
                assert set(content) == {"error"}
                _check_line(content["error"])
            assert status < 500 or (status == 503 and "retry-after" in headers), (status, body)
            assert status in (100, 200) or status >= 400, (status, headers)
            return status

        yield check


@contextlib.contextmanager
def broken(_: Path) -> Iterator[Callable[[str], None]]:
    """Does what a target must not, by name: the tests of this file's own watchfulness."""

    def check(case: str) -> None:
        if case == "crash":
            ctypes.string_at(0)
        elif case == "hang":
            time.sleep(1000)
        elif case == "raise":
            raise KeyError(case)
        elif case == "print":
            print("Traceback (most recent call last):", file=sys.stderr, flush=True)
        elif case == "memory":
            mmap.mmap(-1, 2 * MOST_MEMORY).close()

    yield check


TARGETS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Callable[[Any], None]]]] = {
    "images": images,
    "engines": engines,
    "requests": requests,
    "broken": broken,
}


def _check_line(text: str) -> None:
    assert text.strip(), "no reason"
    assert "\n" not in text, f"more than one line: {text!r}"
    assert "Traceback" not in text


def _talk(port: int, case: RequestCase) -> bytes:
    """All that the server says: until it closes, or is silent after a whole answer."""
    said, end = b"", time.monotonic() + HANG_SECONDS / 2
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS / 2) as connection:
        try:
            for part in case.parts:
                connection.sendall(part)
                time.sleep(0.001 if len(case.parts) > 1 else 0)
            if case.end == "leave":
                return b""
            if case.end == "shut":
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(2 * PATIENCE)
            while True:
                try:
                    more = connection.recv(1 << 16)
                except TimeoutError:
                    if said:  # it is open for a next request
                        return said
                    assert time.monotonic() < end, "no answer, and the connection stays open"
                    continue
                if not more:
                    return said
                said += more
        except (BrokenPipeError, ConnectionResetError):  # it did not want the rest
            return said


def _split_answers(said: bytes, case: RequestCase) -> Iterator[tuple[int, dict[str, str], bytes | None]]:
    """Status, headers and body of each answer; body None where there is none, as after HEAD, or it was cut off."""
    head_alone = b"HEAD" in b"".join(case.parts)
    while said:
        head, whole, rest = said.partition(b"\r\n\r\n")
        if not whole:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), f"no answer of HTTP: {first[:200]!r}"
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if head_alone and (not rest or rest.startswith(b"HTTP/1.1 ")):
            length = 0
        body = rest[:length] if length and len(rest) >= length else None
        yield int(first.split()[1]), headers, body
        said = rest[length:]


if __name__ == "__main__":
    with TARGETS[sys.argv[1]](Path(sys.argv[2])) as chosen:
        chosen(pickle.loads(Path(sys.argv[3]).read_bytes()))
