"""What ONNX Runtime's threads and memory settings are worth on an engine: why the runtime sets what it sets.

    python benchmarks/session_settings.py artifacts/street-lite-fp32.engine --image photo.jpg --threads 2 --save

Each row is the runtime's own setting with one thing changed, all in turns in one process. `network`: one run after the
pools have gone to sleep. `total`: image to label map, where threads that go on spinning after the network take the
cores that the masks want. Peak memory is of a fresh process for each. Ratios are to the runtime's own settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.benchmarks.peak_memory import peak_of_this_process_mb
from mask2edge.benchmarks.results_table import append_rows
from mask2edge.benchmarks.timing import interleave, summarize, timed
from mask2edge.runtime.command_line import InputError, command, natural_number, positive_number, say
from mask2edge.runtime.images import read_image
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.session_onnxruntime import OnnxRuntimeSession, session_options
from mask2edge.runtime.spec import EngineSpec

RESULTS = Path(__file__).resolve().parent / "results" / "session_settings.csv"
COLUMNS = (
    "date", "commit", "cpu", "instruction_set", "threads", "versions", "engine", "image", "setting", "runs",
    "network_p50_ms", "network_ratio", "total_p50_ms", "total_ratio", "peak_memory_mb",
)  # fmt: skip
OURS = "ours"


# name -> configuration entries, and attributes of SessionOptions, in place of the runtime's own
SETTINGS: Mapping[str, tuple[Mapping[str, str], Mapping[str, Any]]] = {
    OURS: ({}, {}),
    "threads spin on after a run": ({"session.force_spinning_stop": "0"}, {}),
    "threads never spin": ({"session.intra_op.allow_spinning": "0"}, {}),
    "one thread": ({}, {"intra_op_num_threads": 1}),
    "no memory arena": ({}, {"enable_cpu_mem_arena": False}),
    "no memory pattern": ({}, {"enable_mem_pattern": False}),
    "weights not prepacked": ({"session.disable_prepacking": "1"}, {}),
    "denormals are zero": ({"session.set_denormal_as_zero": "1"}, {}),
}


def open_with(engine: Path, setting: str, threads: int) -> Segmenter:
    """The engine with one setting changed. Raises InputError as Segmenter.load does, and for another backend's."""
    spec = EngineSpec.load(engine)
    if spec.backend != "onnxruntime":
        raise InputError(
            f"{engine}: expected an engine for ONNX Runtime, got one for {spec.backend}; "
            "build one with --backend onnxruntime"
        )
    spec.verify_files(engine)
    entries, attributes = SETTINGS[setting]
    options = session_options(threads, entries)
    for name, value in attributes.items():
        setattr(options, name, value)
    return Segmenter(spec, OnnxRuntimeSession(engine, spec, options=options), threads)


def noise_of_size(spec: EngineSpec) -> np.ndarray:
    """Noise of the size that the engine was made for, float32 [N, 3, H, W]."""
    batch, height, width = spec.profile.opt
    return np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)


def peak_memory_mb(engine: Path, setting: str, threads: int) -> float:
    """Of a fresh process that opens the engine and runs the network three times. Raises InputError."""
    arguments = [str(engine), "--threads", str(threads), "--peak-of", setting]
    done = subprocess.run(
        [sys.executable, "-m", "mask2edge.benchmarks.session_settings", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"{setting}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return float(done.stdout.split()[-1])


def measure(engine: Path, image: np.ndarray, threads: int, runs: int, warmup: int) -> list[dict[str, Any]]:
    """One row for each setting, the columns from "setting" on. Raises InputError."""
    segmenters = {name: open_with(engine, name, threads) for name in SETTINGS}
    task = segmenters[OURS].spec.model.tasks[0]
    pixels = noise_of_size(segmenters[OURS].spec)
    say(f"timing {len(SETTINGS)} in turns")
    networks = interleave(
        {name: timed(lambda one=one: one.session.run(pixels)) for name, one in segmenters.items()}, runs, warmup=warmup
    )
    totals = interleave(
        {name: timed(lambda one=one: one(image, task=task)) for name, one in segmenters.items()}, runs, warmup=warmup
    )
    p50 = {
        part: {name: summarize([one["ms"] for one in found])["p50"] for name, found in times.items()}
        for part, times in (("network", networks), ("total", totals))
    }
    return [
        {"setting": name, "runs": runs}
        | {f"{part}_p50_ms": of[name] for part, of in p50.items()}
        | {f"{part}_ratio": round(of[name] / of[OURS], 4) for part, of in p50.items()}
        | {"peak_memory_mb": peak_memory_mb(engine, name, threads)}
        for name in SETTINGS
    ]


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{'setting':<30}{'network ms':>12}{'ratio':>8}{'total ms':>10}{'ratio':>8}{'peak MB':>10}"
    for row in rows:
        yield (
            f"{row['setting']:<30}{row['network_p50_ms']:>12.1f}{row['network_ratio']:>8.3f}"
            f"{row['total_p50_ms']:>10.1f}{row['total_ratio']:>8.3f}{row['peak_memory_mb']:>10.0f}"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Times an engine under other thread and memory settings of ONNX Runtime, in turns.",
        epilog="example: python benchmarks/session_settings.py artifacts/street-lite-fp32.engine --threads 2 --save",
    )
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="for ONNX Runtime")
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: scikit-learn's photograph")
    parser.add_argument("--threads", type=positive_number, metavar="N", help="default: the number of cores")
    parser.add_argument("--runs", type=positive_number, default=21, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=natural_number, default=2, metavar="N", help="runs before (default: %(default)s)"
    )
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    parser.add_argument("--peak-of", choices=SETTINGS, help=argparse.SUPPRESS)  # in a fresh process
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    described = machine.describe()
    threads = arguments.threads or described["cores"]
    if arguments.peak_of:
        session = open_with(arguments.engine, arguments.peak_of, threads).session
        for _ in range(3):
            session.run(noise_of_size(EngineSpec.load(arguments.engine)))
        print(f"{peak_of_this_process_mb():.1f}")
        return 0
    image = arguments.image or sample_photograph()
    rows = measure(arguments.engine, read_image(image), threads, arguments.runs, arguments.warmup)
    if arguments.save:
        about = {"date": machine.today(), "commit": machine.commit(), "cpu": described["cpu"], "threads": threads}
        about["instruction_set"] = " ".join(machine.instruction_set())
        about["versions"] = " ".join(f"{name}={version}" for name, version in described["versions"].items())
        about |= {"engine": arguments.engine.name, "image": image.name}
        append_rows(RESULTS, COLUMNS, [about | row for row in rows])
    if arguments.json:
        print(json.dumps({"settings": rows, "threads": threads, "machine": described}))
    else:
        print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
