"""Segments all images of a folder and those below it, over Ray Data: many processes, one machine or a cluster.

    python runtime/batch.py artifacts/street-lite-fp16.engine photos/ --out artifacts/batch --workers 2

Into --out go shards/shard-NNNNNN.parquet, one row an image (RLE), and shards.json, which images each holds. A run that
was killed is started again by the same command: what is finished is not done again, and no image comes twice. An image
that fails has a row that says why; the others are done, and the exit code is 2. docs/batch.md has the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mask2edge.runtime.command_line import (
    EXIT_BAD_INPUT,
    InputError,
    command,
    natural_number,
    positive_number,
    say,
    sha256_of,
)
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.session import Elsewhere, first_line
from mask2edge.runtime.spec import SPEC_FILE, EngineSpec

LISTED = 20  # failures on stderr; --json and the shards have all


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    _require_packages()
    from mask2edge.runtime.batch_shards import SHARDS, ShardPlan, failures

    spec, task = _check(arguments)
    about = {"engine_sha256": sha256_of(arguments.engine / SPEC_FILE), "task": task}
    plan = ShardPlan.load_or_make(arguments.out, arguments.folder, about, arguments.shard_size)
    todo = plan.unfinished(arguments.out, arguments.retry_failed)
    images = sum(len(images) for images in plan.shards.values())
    waiting = sum(len(plan.shards[name]) for name in todo)
    say(f"{images} images in {len(plan.shards)} shards, {images - waiting} of them finished before")
    reports = _run(arguments, spec, task, {name: plan.shards[name] for name in todo}) if todo else []
    _remove_leftovers(arguments.out / SHARDS)
    failed = [failure for name in plan.shards for failure in failures(arguments.out, name)]
    seconds = max(one["end"] for one in reports) - min(one["start"] for one in reports) if reports else 0.0
    report = {
        "engine": str(arguments.engine),
        "task": task,
        "out": str(arguments.out),
        "workers": arguments.workers,
        "images": images,
        "done_before": images - waiting,
        "seconds": round(seconds, 3),  # from the first image's start to the last shard's end
        "images_per_second": round(waiting / seconds, 3) if seconds else None,
    }
    if arguments.json:
        print(json.dumps({**report, "failed": failed}))
    else:
        rate = f", {report['images_per_second']} images/s" if reports else ""
        print(f"{arguments.out / SHARDS}  {images - len(failed)} of {images} images{rate}")
    if failed:
        for failure in failed[:LISTED]:
            say(f"error: {failure['error']}")
        say(f"{len(failed)} of {images} images failed; --retry-failed tries them again")
        return EXIT_BAD_INPUT
    return 0


def _check(arguments: argparse.Namespace) -> tuple[EngineSpec, str]:
    """Before Ray is started, what can be known before it. Raises InputError."""
    spec = EngineSpec.load(arguments.engine)
    spec.verify_files(arguments.engine)
    task = Segmenter(spec, Elsewhere()).check_task(arguments.task)
    if not arguments.folder.is_dir():
        kind = "a file" if arguments.folder.exists() else "no such folder"
        raise InputError(f"{arguments.folder}: expected a folder of images, got {kind}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out: expected a folder, got a file: {arguments.out}; choose another name")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {arguments.out} cannot be made ({error.strerror}); choose another folder") from error
    return spec, task


def _run(
    arguments: argparse.Namespace, spec: EngineSpec, task: str, shards: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Makes the shards on Ray; returns their reports. Raises InputError where the cluster or the workers fail."""
    import ray

    gpus = 1 if spec.backend == "tensorrt" else 0
    _connect(arguments.address, arguments.workers)
    try:
        _require_resources(ray.cluster_resources(), arguments.workers, gpus)
        reports = []
        for report in _reports(arguments, task, shards, gpus):
            reports.append(report)
            failed = f", {report['failed']} failed" if report["failed"] else ""
            say(f"{report['shard']}  {report['images']} images{failed}  ({len(reports)} of {len(shards)})")
        return reports
    except ray.exceptions.RayError as error:
        raise InputError(f"a worker failed ({_reason(error)}); finished shards are kept, run again") from error
    finally:
        ray.shutdown()


def _reports(
    arguments: argparse.Namespace, task: str, shards: dict[str, list[str]], gpus: int
) -> Iterator[dict[str, Any]]:
    import ray

    from mask2edge.runtime.batch_tasks import ShardTask

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    items = [{"shard": name, "images": json.dumps(images)} for name, images in shards.items()]
    # One shard a block, so that a worker takes the next when it has finished one.
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardTask,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(arguments.workers, len(items))),
        fn_constructor_kwargs={
            "engine": str(arguments.engine.resolve()),
            "out": str(arguments.out.resolve()),
            "folder": str(arguments.folder.resolve()),
            "task": task,
            "threads": arguments.threads or max(1, cores // arguments.workers),
            "maps": arguments.maps,
        },
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in dataset.iter_rows():
        yield json.loads(row["report"])


def _connect(address: str | None, workers: int) -> None:
    """Joins a cluster, or starts one on this machine's loopback address alone. Raises InputError."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address:
        _require_server(address)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            # A worker takes one of Ray's CPUs; "local" keeps it from joining a cluster that happens to be there.
            ray.init(
                address="local", num_cpus=workers + 1, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--address: expected a Ray cluster at {address or 'this machine'}, got {first_line(error)}"
        ) from error


def _require_server(address: str) -> None:
    """Raises InputError where nobody listens: Ray itself takes minutes to say so."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--address: expected auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address: expected a Ray cluster at {address}, got {first_line(error)}; start one (ray start --head)"
        ) from error


def _require_resources(there: dict[str, float], workers: int, gpus: int) -> None:
    """Raises InputError where Ray would wait for ever."""
    for name, wanted in (("CPU", workers), ("GPU", workers * gpus)):
        if there.get(name, 0) < wanted:
            raise InputError(
                f"--workers {workers}: expected {wanted} {name}s in the cluster, got {there.get(name, 0):g}; use fewer"
            )


def _reason(error: BaseException) -> str:
    """Ray wraps what happened in a worker in errors of its own."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    return first_line(error)


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of runs that were killed, once nobody writes any more."""
    for path in folder.glob(".shard-*"):
        if time.time() - path.stat().st_mtime > 60:
            path.unlink(missing_ok=True)


def _require_packages() -> None:
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"batch.py runs on Ray Data, which cannot be imported ({error}); pip install 'mask2edge[batch]'"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Segment all images of a folder over Ray Data, into Parquet.",
        epilog="example: python runtime/batch.py artifacts/street-lite-fp16.engine photos/ --out artifacts/batch",
    )
    parser.add_argument("engine", type=Path, help="engine folder, as export/build_engine.py makes it")
    parser.add_argument("folder", type=Path, help="images in it and below it")
    parser.add_argument("--out", type=Path, required=True, help="where the results go; of an earlier run: it goes on")
    parser.add_argument("--task", choices=TASKS, help="default: panoptic where the model does it, else its first task")
    parser.add_argument("--workers", type=positive_number, default=1, help="processes, an engine each (default: 1)")
    parser.add_argument("--address", help="a Ray cluster, such as auto or HOST:6379 (default: one on this machine)")
    parser.add_argument("--threads", type=natural_number, default=0, help="of a worker; 0: its share of the cores")
    parser.add_argument("--shard-size", type=positive_number, default=64, help="images in a shard (default: 64)")
    parser.add_argument("--maps", action="store_true", help="label maps as well: maps/IMAGE.png, 16 bits")
    parser.add_argument("--retry-failed", action="store_true", help="do shards with failed images again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
