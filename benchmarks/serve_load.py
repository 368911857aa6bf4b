"""Many callers at once on runtime/serve.py, some of them in the wrong: is every answer right, and the memory bounded?

    python benchmarks/serve_load.py artifacts/street-lite-fp16.engine --clients 32 --seconds 600
    python benchmarks/serve_load.py artifacts/street-lite-fp16.engine --image a.jpg --image b.png --bad 0.1 --json

It starts the server on this machine's loopback address, with a token. A good answer is right where its segments are
those of the Segmenter itself; a bad request has to get its own status and a reason in one line. A 503 with Retry-After
is an answer too: it is counted as busy, and the client asks again. Exit code 1: an answer was wrong, or the server
died.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mask2edge.benchmarks.bad_requests import BAD_REQUESTS, Server, send_bad
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.runtime.answer import Options, answer
from mask2edge.runtime.command_line import InputError, command, positive_float, positive_number, say
from mask2edge.runtime.images import decode_image
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.serve import TOKEN_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.5  # between two looks at the server's memory
SCORE_TOLERANCE = 1e-4  # other threads, other sums
DRAIN_SECONDS = 300  # for the requests under way when the time is over


@dataclass(frozen=True)
class Good:
    """A request and its right answer."""

    data: bytes
    query: dict[str, str]
    segments: list[dict[str, Any]]


@dataclass
class Tally:
    good_ms: list[float] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    wrong: list[str] = field(default_factory=list)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if not 0 <= arguments.bad < 1:
        raise InputError(f"--bad: expected a part from 0 to below 1, got {arguments.bad}")
    files = arguments.image or [sample_photograph()]
    goods = make_goods(arguments.engine, [Path(file).read_bytes() for file in files], arguments.threads)
    token = secrets.token_hex(16)
    queue = arguments.clients if arguments.queue is None else arguments.queue
    process, url = start_server(arguments.engine, token, queue, 2 * arguments.clients + 8, arguments.threads)
    say(f"{url}: {arguments.clients} clients for {arguments.seconds:g} s, {arguments.bad:.0%} bad requests")
    try:
        server = Server(url, token)
        tally, memory = asyncio.run(
            load(server, goods, arguments.clients, arguments.seconds, arguments.bad, process.pid)
        )
        alive = process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    report = summarise(tally, memory, arguments.seconds) | {
        "engine": str(arguments.engine), "clients": arguments.clients, "seconds": arguments.seconds,
        "crashed": not alive, "exit_code": code,
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:16} {value}")
    return 1 if tally.wrong or not alive or code else 0


def make_goods(engine: Path, images: Sequence[bytes], threads: int | None) -> list[Good]:
    """Each image with each task that the engine does, and the Segmenter's own segments."""
    goods = []
    with Segmenter.load(engine, threads=threads) as segmenter:
        for data in images:
            image = decode_image(data, "image")  # [H, W, 3]
            for task in TASKS:
                try:
                    segmenter.check_task(task)
                except InputError:
                    continue
                right = json.loads(answer(segmenter, image, Options(task)).body)
                goods.append(Good(data, {"task": task}, right["segments"]))
    return goods


def start_server(
    engine: Path, token: str, queue: int, connections: int, threads: int | None
) -> tuple[subprocess.Popen[str], str]:
    """The server's process, ready for requests, and its address."""
    command = [sys.executable, ROOT / "runtime" / "serve.py", engine, "--port", "0", "--json", "--timeout", "300"]
    command += ["--queue", str(queue), "--connections", str(connections)]
    if threads:
        command += ["--threads", str(threads)]
    environment = {**os.environ, TOKEN_VARIABLE: token}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise InputError(f"{engine}: the server did not start; its own line says why")
    return process, json.loads(line)["url"]


async def load(
    server: Server,
    goods: Sequence[Good],
    clients: int,
    seconds: float,
    bad: float,
    pid: int | None = None,
    seed: int = 0,
) -> tuple[Tally, list[float]]:
    """What came of the requests, and the server's memory in MB from time to time."""
    tally, memory, end = Tally(), [], time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients)
    headers = {"Authorization": f"Bearer {server.token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=DRAIN_SECONDS, limits=limits) as client:

        async def one_client(number: int) -> None:
            chance = random.Random(seed * 1000 + number)
            while time.monotonic() < end:
                try:
                    if chance.random() < bad:
                        kind = chance.choice(list(BAD_REQUESTS))
                        _judge_bad(tally, kind, *await send_bad(server, client, kind))
                    else:
                        await _send_good(tally, client, chance.choice(goods), end)
                except (httpx.HTTPError, OSError) as error:
                    tally.wrong.append(f"no answer: {error!r}")

        async def watch() -> None:
            while True:
                memory.append(resident_mb(pid) if pid else 0.0)
                await asyncio.sleep(SAMPLE_SECONDS)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(one_client(number) for number in range(clients)))
        watching.cancel()
    return tally, memory


async def _send_good(tally: Tally, client: httpx.AsyncClient, good: Good, end: float) -> None:
    begun = time.perf_counter()
    got = await client.post("segment", content=good.data, params=good.query)
    if got.status_code == 503 and "retry-after" in got.headers:
        tally.busy += 1
        await asyncio.sleep(min(float(got.headers["retry-after"]), max(0.0, end - time.monotonic())))
        return
    tally.good_ms.append(1000 * (time.perf_counter() - begun))
    if got.status_code != 200:
        tally.wrong.append(f"good request: {got.status_code} {got.text[:200]}")
    elif not _same(got.json()["segments"], good.segments):
        tally.wrong.append("good request: other segments than the Segmenter's")


def _judge_bad(tally: Tally, kind: str, status: int, reason: str) -> None:
    expected = BAD_REQUESTS[kind].status
    if status == 503 and expected != 503:
        tally.busy += 1
        return
    tally.bad[f"{kind}: {status}"] += 1
    if status != expected or not reason or "\n" in reason:
        tally.wrong.append(f"{kind}: expected {expected} and a reason in one line, got {status} {reason!r}")


def _same(got: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    def bare(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in one.items() if key != "score"} for one in segments]

    scores = [[one["score"] for one in segments] for segments in (got, right)]
    return bare(got) == bare(right) and np.allclose(*scores, atol=SCORE_TOLERANCE, rtol=0)


def resident_mb(pid: int) -> float:
    """The memory that a process has now; 0 where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS:")), 0.0)


def summarise(tally: Tally, memory: Sequence[float], seconds: float) -> dict[str, Any]:
    """The report's figures; memory: the median of the second tenth of the time, that of the last, and the most."""
    times = tally.good_ms or [0.0]
    tenth = max(1, len(memory) // 10)
    return {
        "good": len(tally.good_ms),
        "bad": sum(tally.bad.values()),
        "busy": tally.busy,
        "wrong": len(tally.wrong),
        "first_wrong": tally.wrong[:5],
        "bad_by_kind": dict(sorted(tally.bad.items())),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p90_ms": round(float(np.percentile(times, 90)), 1),
        "p99_ms": round(float(np.percentile(times, 99)), 1),
        "per_second": round(len(tally.good_ms) / seconds, 2),
        "memory_early_mb": round(statistics.median(memory[tenth : 2 * tenth] or memory), 1),
        "memory_late_mb": round(statistics.median(memory[-tenth:]), 1),
        "memory_most_mb": round(max(memory), 1),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Load the HTTP server with good and bad requests, and judge every answer.",
        epilog="example: python benchmarks/serve_load.py artifacts/street-lite-fp16.engine --clients 32 --seconds 600",
    )
    parser.add_argument("engine", type=Path, help="engine folder, as export/build_engine.py makes it")
    parser.add_argument(
        "--image", action="append", metavar="FILE", help="to send; again for more (default: a photograph)"
    )
    parser.add_argument("--clients", type=positive_number, default=32, help="at a time (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_float, default=60.0, help="default: %(default)s")
    parser.add_argument("--bad", type=float, default=0.1, help="part of bad requests (default: %(default)s)")
    parser.add_argument(
        "--queue", type=positive_number, help="the server's; fewer than clients make it busy (default: as many)"
    )
    parser.add_argument("--threads", type=positive_number, help="the server's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
