"""The server's endpoints around one engine: the page, /segment, /live, /info, /healthz, /metrics.

    app = make_app(Service(segmenter, name="street-lite-fp16"), Limits())

`runtime/serve.py` runs it. No request names a file or an address of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.resources
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from mask2edge.runtime.answer import Answer, EngineFailure, Options, answer
from mask2edge.runtime.command_line import InputError, say
from mask2edge.runtime.http_guard import Guard
from mask2edge.runtime.http_limits import SERVED, BodyBudget, Limits, Refusal, busy, check_image_header, read_body
from mask2edge.runtime.images import decode_image
from mask2edge.runtime.inference_queue import InferenceQueue, QueueFull
from mask2edge.runtime.live_source import NewestFrame
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.serve_metrics import CONTENT_TYPE, Metrics
from mask2edge.runtime.tracking import Tracker

PATHS = ("/", "/segment", "/live", "/info", "/healthz", "/metrics")
FRAME_SECONDS = 5.0  # how long /live waits for a frame
MOST_SHARED = 16  # answers kept for other watchers of the same frame, and queries whose segments are tracked
Key: TypeAlias = tuple[int, Options]  # of a frame and what is asked of it
IMAGE_BODY = {  # for /openapi.json: the handler reads the bytes itself
    "required": True,
    "content": {f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in SERVED},
}
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asked(BaseModel):
    """The query of /segment and /live."""

    model_config = ConfigDict(extra="forbid")

    task: str | None = None
    object_threshold: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    overlap_threshold: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    min_score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0

    def options(self, segmenter: Segmenter) -> Options:
        """Raises Refusal where the model cannot do the task."""
        try:
            task = segmenter.check_task(self.task)
        except InputError as error:
            raise Refusal(400, str(error)) from error
        overlay = isinstance(self, AskedPicture) and self.overlay
        return Options(task, self.object_threshold, self.overlap_threshold, self.min_score, overlay)


class AskedPicture(Asked):
    overlay: bool = False


class AskedFrame(Asked):
    after: Annotated[int, Field(ge=0)] = 0  # the number of the frame that the caller has


@dataclass
class Service:
    """What runs behind the endpoints."""

    segmenter: Segmenter
    name: str
    source: NewestFrame | None = None
    stopping: threading.Event = field(default_factory=threading.Event)  # requests that wait for a frame end


def make_app(
    service: Service, limits: Limits, token: str | None = None, hosts: Iterable[str] = ("localhost",)
) -> ASGIApp:
    """`token`: what callers must bear; None lets everybody ask. `hosts`: names that the server answers to."""
    segmenter, queue, budget = service.segmenter, InferenceQueue(limits.waiting), BodyBudget(4 * limits.bytes)
    metrics = Metrics(lambda: queue.held, lambda: budget.held)
    shared: dict[Key, asyncio.Task[Answer]] = {}  # of the newest frame, for all who watch
    trackers: dict[Options, Tracker] = {}  # of the frames so far, one for each way to look at them

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    # A path that is not there is a 404, not a redirect to an address made of the caller's own Host header.
    app = FastAPI(title="mask2edge", docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    _answer_errors(app)

    async def run(work: Callable[[], Answer]) -> Answer:
        try:
            done = await queue.run(work)
        except QueueFull as error:
            raise _full(limits) from error
        except EngineFailure as error:
            say(f"error: {error}")
            raise Refusal(500, "the engine failed on this image; the server's log says more") from error
        except InputError as error:
            raise Refusal(422, str(error)) from error
        metrics.steps(done.times)
        return done

    @app.post("/segment", openapi_extra={"requestBody": IMAGE_BODY})
    async def segment(request: Request, asked: Annotated[AskedPicture, Query()]) -> Response:
        """The segments of the image that is the request's body."""
        options = asked.options(segmenter)
        if queue.is_full:
            raise _full(limits)
        with budget.account() as account:
            data = await read_body(request, limits, account)
            check_image_header(data, limits)
            came = time.perf_counter()

            def work() -> Answer:
                start = time.perf_counter()
                image = decode_image(data, "image", limits.pixels)  # [H, W, 3]
                times = {"queue_ms": 1000 * (start - came), "decode_ms": 1000 * (time.perf_counter() - start)}
                return answer(segmenter, image, options, times)

            done = await _unless_gone(request, run(work))
        return Response(done.body, media_type="application/json")

    @app.get("/live")
    async def live(asked: Annotated[AskedFrame, Query()]) -> Response:
        """The segments of the newest frame, and the frame; waits for another than the one that the caller has."""
        options = asked.options(segmenter)
        number, frame = await _next_frame(service, asked.after)
        key = (number, options)
        if key not in shared:
            for old in [other for other in shared if other[0] != number or len(shared) >= MOST_SHARED]:
                if shared[old].done():
                    del shared[old]
            if options not in trackers and len(trackers) >= MOST_SHARED:
                del trackers[next(iter(trackers))]
            tracker = trackers.setdefault(options, Tracker(smoothing=0, least_score=options.min_score))
            work = functools.partial(
                answer, segmenter, frame, options, extra={"frame": number}, with_image=True, tracker=tracker
            )
            shared[key] = asyncio.create_task(run(work))
            shared[key].add_done_callback(functools.partial(_forget_failure, shared, key))
        done = await asyncio.shield(shared[key])
        return Response(done.body, media_type="application/json")

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """What the page shows of the engine and the server."""
        return _about(service, limits)

    @app.head("/healthz", include_in_schema=False)  # as some watchdogs ask
    @app.get("/healthz")
    async def health() -> Response:
        state = "stopping" if service.stopping.is_set() else "ok"
        content = {"status": state, "source": service.source.state if service.source else None}
        return JSONResponse(content, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    page = page_files()
    for path, (content, kind) in page.items():
        app.add_api_route(path, _file(content, kind), methods=["GET", "HEAD"], include_in_schema=False)
    return Guard(app, token, hosts, {"/healthz", *page}, PATHS, limits, metrics)


def page_files() -> dict[str, tuple[bytes, str]]:
    """The page's files by the path at which they are served: content and media type."""
    folder = importlib.resources.files("mask2edge.runtime") / "page"
    files = {f"/{file.name}": file for file in folder.iterdir() if Path(file.name).suffix in MEDIA_TYPES}
    files["/"] = files.pop("/index.html")
    return {path: (file.read_bytes(), MEDIA_TYPES[Path(file.name).suffix]) for path, file in files.items()}


def _file(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def get() -> Response:
        return Response(content, headers={"Content-Type": kind})

    return get


def _forget_failure(shared: dict[Key, asyncio.Task[Answer]], key: Key, task: asyncio.Task[Answer]) -> None:
    """Whoever asks next tries anew."""
    if (task.cancelled() or task.exception()) and shared.get(key) is task:
        del shared[key]


async def _next_frame(service: Service, after: int) -> tuple[int, np.ndarray]:
    """The newest frame if its number is not `after`, else the next. Raises Refusal where none comes."""
    if service.source is None:
        raise Refusal(404, "live: this server has no source; start it with --source")
    deadline = time.monotonic() + FRAME_SECONDS
    while not service.stopping.is_set():
        number, frame = service.source.newest
        if frame is not None and number != after:
            return number, frame
        if time.monotonic() > deadline:
            raise busy(f"no frame from the source within {FRAME_SECONDS:g} s ({service.source.state})")
        await asyncio.sleep(0.005)  # frames come from another thread, up to 60 a second
    raise busy("the server is stopping")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer, or none where the caller hangs up before."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the caller has gone")  # nobody reads it; the metrics count it
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _about(service: Service, limits: Limits) -> dict[str, Any]:
    spec, segmenter = service.segmenter.spec, service.segmenter
    rules = spec.model.postprocessing
    return {
        "engine": service.name,
        "model": spec.model.name,
        "backend": spec.backend,
        "precision": spec.precision,
        "tasks": [task for task in TASKS if _can(segmenter, task)],
        "default_task": segmenter.default_task,
        "object_threshold": rules.object_threshold,
        "overlap_threshold": rules.overlap_threshold,
        "labels": [{"id": label.id, "name": label.name, "color": label.color} for label in spec.model.labels],
        "limits": {"bytes": limits.bytes, "pixels": limits.pixels},
        "source": service.source.state if service.source else None,
    }


def _can(segmenter: Segmenter, task: str) -> bool:
    try:
        segmenter.check_task(task)
    except InputError:
        return False
    return True


def _full(limits: Limits) -> Refusal:
    return busy(f"{limits.waiting + 1} images are at work or in line")


def _answer_errors(app: FastAPI) -> None:
    """Every error is a JSON object {"error": one line}."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return JSONResponse({"error": error.reason}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misasked(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name, message = str(first["loc"][-1]), str(first["msg"])
        if first["type"] == "extra_forbidden":
            return JSONResponse({"error": f"query: expected none of this name, got {name!r}"}, 400)
        return JSONResponse({"error": f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}"}, 400)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        reason = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        return JSONResponse({"error": reason}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed on this request; its log says more"}, 500)
