"""How long an engine takes: preprocessing, network, post-processing and all together, as percentiles.

    python benchmarks/latency.py artifacts/street-lite-fp16.engine --json
    python benchmarks/latency.py --peer onnxruntime-stock --backbone r50 --size 512x512 --threads 2

Several engines take turns run by run. --peer adds ONNX Runtime on the stock Hugging Face export of the same
architecture and weights, and the ratio of the medians of the network (below 1: ours is faster); both sides are made
where absent, and have to agree on the same input before they are timed.

--json prints, for one engine, {"engine", "batch", "network_ms": {"p50", "p90", "p99", "mean"}, "preprocess_ms",
"postprocess_ms", "total_ms", "throughput", …}, where throughput is images per second; for several engines
{"engines": [such objects]}. With --peer, each engine has a "ratio", and the outer object a "peer".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.peers import onnxruntime_stock
from mask2edge.benchmarks.results_table import append_row
from mask2edge.benchmarks.timing import Run, interleave, summarize
from mask2edge.runtime.command_line import InputError, command, natural_number, parse_size, positive_number, say
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segmenter import TASKS, Segmenter

STEPS = ("preprocess", "network", "postprocess", "total")
RESULTS = Path(__file__).resolve().parent / "results" / "latency.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "threads", "versions", "peer", "engine", "size", "batch", "runs",
    "network_p50_ms", "peer_p50_ms", "total_p50_ms", "ratio",
)  # fmt: skip
# The same weights on the same input: fp32 rounding alone would be 1e-5, but where it flips an attended pixel, later
# layers differ by more (OPS.md). Half-precision storage adds its own. Foreign weights differ by 1 and more.
SAME_WEIGHTS = 0.05


@dataclass
class Contender:
    """An engine with images for one batch."""

    name: str
    segmenter: Segmenter
    images: list[np.ndarray]
    task: str

    def run(self) -> dict[str, float]:
        """Milliseconds of each of STEPS.

        Where images and masks are worked on by the device, its own clock times the steps, transfers included, and their
        sum is less than the total, in which the host's part is.
        """
        start = time.perf_counter()
        session = self.segmenter.session
        if getattr(session, "on_device", False):
            times: dict[str, float] = {}
            session.segment_async(self.images, self.task, times).result()
            return times | {"total": 1000 * (time.perf_counter() - start)}
        pixels, prepared = self.segmenter.prepare(self.images)
        ready = time.perf_counter()
        outputs = self.segmenter.session.run(pixels)
        done = time.perf_counter()
        self.segmenter.finish(outputs, prepared, self.task)
        end = time.perf_counter()
        moments = (ready - start, done - ready, end - done, end - start)
        return {step: 1000 * seconds for step, seconds in zip(STEPS, moments, strict=True)}


def open_contender(path: Path, image: np.ndarray | None, task: str | None, threads: int | None) -> Contender:
    """An engine at its profile's best size and batch; without an image, noise of that size. Raises InputError."""
    segmenter = Segmenter.load(path, threads=threads)
    batch, height, width = segmenter.spec.profile.opt
    picture = noise(height, width) if image is None else image
    return Contender(str(path), segmenter, [picture] * batch, segmenter.check_task(task))


def noise(height: int, width: int) -> np.ndarray:
    """The same blurred noise each time, uint8 [H, W, 3]: some content at every scale."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), np.uint8)  # [h, w, 3]
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def engine_report(contender: Contender, times: Sequence[dict[str, float]]) -> dict[str, Any]:
    batch, height, width = contender.segmenter.spec.profile.opt
    spec = contender.segmenter.spec
    report: dict[str, Any] = {"engine": contender.name, "batch": batch, "size": f"{height}x{width}"}
    report |= {"precision": spec.precision, "backend": spec.backend, "ops": spec.ops, "task": contender.task}
    report |= {f"{step}_ms": summarize([time[step] for time in times]) for step in STEPS}
    return report | {"throughput": round(1000 * batch / report["total_ms"]["mean"], 3), "runs": len(times)}


def check_same_weights(contender: Contender, peer: onnxruntime_stock.StockSession) -> dict[str, float]:
    """Relative L2 differences of both outputs on the same input. Raises InputError where the networks differ."""
    pixels, _ = contender.segmenter.prepare(contender.images)
    ours, theirs = contender.segmenter.session.run(pixels), peer.run(pixels)
    errors = {}
    for name, value in ours.items():
        same_shape = value.shape == theirs[name].shape
        errors[name] = onnxruntime_stock.relative_error(value, theirs[name]) if same_shape else float("inf")
    if max(errors.values()) > SAME_WEIGHTS:
        found = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        raise InputError(
            f"{contender.name}: expected the stock export's outputs within {SAME_WEIGHTS} (relative), got {found}; "
            "compare engines built from the peer's own ours.safetensors, or name no engine"
        )
    return errors


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The JSON object of the module's docstring. Raises InputError."""
    size = parse_size(arguments.size)
    image = read_image(arguments.image) if arguments.image else None
    stock = onnxruntime_stock.prepare(arguments.backbone, size) if arguments.peer else None
    engines = list(dict.fromkeys(arguments.engine)) or ([stock.engine] if stock else [])
    if not engines:
        raise InputError("expected an engine, or --peer, which makes its own; got neither")
    contenders = [open_contender(path, image, arguments.task, arguments.threads) for path in engines]
    runs: dict[str, Run] = {contender.name: contender.run for contender in contenders}
    agreement = {}
    if stock:
        session = onnxruntime_stock.StockSession(stock.onnx, arguments.threads)
        for contender in contenders:
            _check_size(contender, size)
            agreement[contender.name] = check_same_weights(contender, session)
        pixels, _ = contenders[0].segmenter.prepare(contenders[0].images)
        runs[onnxruntime_stock.NAME] = lambda: _timed_peer(session, pixels)
    say(f"timing {len(runs)} in turns: {', '.join(runs)}")
    seconds = None if arguments.runs else arguments.seconds
    times = interleave(runs, arguments.runs, seconds, arguments.warmup)
    reports = [engine_report(contender, times[contender.name]) for contender in contenders]
    result = reports[0] if len(reports) == 1 else {"engines": reports}
    result |= {"threads": arguments.threads, "machine": machine.describe()}
    if stock:
        network = summarize([time["network"] for time in times[onnxruntime_stock.NAME]])
        for report in reports:
            report["ratio"] = round(report["network_ms"]["p50"] / network["p50"], 4)
            report["relative_difference"] = {name: float(f"{e:.3g}") for name, e in agreement[report["engine"]].items()}
        result["peer"] = {"name": arguments.peer, "onnx": str(stock.onnx), "network_ms": network}
    return result


def _timed_peer(session: onnxruntime_stock.StockSession, pixels: np.ndarray) -> dict[str, float]:
    start = time.perf_counter()
    session.run(pixels)
    return {"network": 1000 * (time.perf_counter() - start)}


def _check_size(contender: Contender, size: tuple[int, int]) -> None:
    opt = contender.segmenter.spec.profile.opt
    if opt != (1, *size):
        got = "x".join(map(str, opt))
        raise InputError(
            f"{contender.name}: expected batch and size 1x{size[0]}x{size[1]} as the peer's, got {got}; see --size"
        )


def rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line of benchmarks/results/latency.csv for each engine."""
    described, peer = result["machine"], result.get("peer")
    for report in result.get("engines", [result]):
        yield {
            "date": machine.today(),
            "commit": machine.commit(),
            "machine": described["machine"],
            "cpu": described["cpu"],
            "threads": result["threads"] or "default",
            "versions": " ".join(f"{name}={version}" for name, version in described["versions"].items()),
            "peer": peer["name"] if peer else "",
            "engine": f"{Path(report['engine']).name} {report['precision']} {report['ops']}",
            "size": report["size"],
            "batch": report["batch"],
            "runs": report["runs"],
            "network_p50_ms": report["network_ms"]["p50"],
            "peer_p50_ms": peer["network_ms"]["p50"] if peer else "",
            "total_p50_ms": report["total_ms"]["p50"],
            "ratio": report.get("ratio", ""),
        }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    yield f"{'milliseconds':<14}{'p50':>10}{'p90':>10}{'p99':>10}{'mean':>10}"
    for report in result.get("engines", [result]):
        yield "{engine} (batch {batch}, {size}, {precision}, {task}, {runs} runs)".format(**report)
        for step in STEPS:
            yield _line(step, report[f"{step}_ms"])
        yield f"  {report['throughput']:.2f} images/s"
        if "ratio" in report:
            yield f"  network: {report['ratio']:.3f} of {result['peer']['name']} (ratio of medians)"
    if "peer" in result:
        yield f"{result['peer']['name']} ({result['peer']['onnx']})"
        yield _line("network", result["peer"]["network_ms"])
    yield machine.one_line(result["machine"])


def _line(step: str, summary: dict[str, float]) -> str:
    return f"  {step:<12}" + "".join(f"{summary[key]:>10.2f}" for key in ("p50", "p90", "p99", "mean"))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Times engines, interleaved, and a peer beside them.",
        epilog="example: python benchmarks/latency.py artifacts/street-lite-fp16.engine --image street.jpg --json",
    )
    parser.add_argument("engine", nargs="*", type=Path, metavar="ENGINE")
    parser.add_argument("--image", type=Path, help="default: blurred noise of the engine's size")
    parser.add_argument("--task", choices=TASKS, help="the post-processing; default: the engine's own")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--runs", type=positive_number, metavar="N", help="timed runs of each contender")
    amount.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="of timed runs in all (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=natural_number, default=3, metavar="N", help="runs before, not counted (default: %(default)s)"
    )
    parser.add_argument("--threads", type=positive_number, metavar="N", help="default: the backend's own choice")
    parser.add_argument("--peer", choices=(onnxruntime_stock.NAME,))
    parser.add_argument(
        "--backbone", choices=onnxruntime_stock.BACKBONES, default="r50", help="the peer's (default: r50)"
    )
    parser.add_argument("--size", default="512x512", metavar="HxW", help="the peer's (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    result = measure(arguments)
    if arguments.save:
        for row in rows(result):
            append_row(RESULTS, COLUMNS, row)
        say(f"appended to {RESULTS}")
    print(json.dumps(result) if arguments.json else "\n".join(table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
