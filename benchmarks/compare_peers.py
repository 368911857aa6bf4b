"""Every way to run Mask2Former on a CPU beside ours: same weights, same input, in turns in one run.

    python benchmarks/compare_peers.py --size 512x512 --threads 2 --json
    python benchmarks/compare_peers.py --peers openvino-fp32,torch-eager --runs 10 --save
    python benchmarks/compare_peers.py --int8-engine artifacts/r50-int8.engine

--json prints {"ratios": {"onnxruntime-stock": 1.0, "mask2edge-fp32": …, …}, …}: the median time of the network over
that of ONNX Runtime on the stock Hugging Face export; below 1 is faster. Besides: "ratio_quartiles" over the rounds
and "ratios_of_fastest", of each side's fastest run, which agree with it on a quiet machine; "network_ms"; "agreement"
(relative L2 differences from our fp32 logits, checked before anything is timed); "peak_memory_mb" (each in a process of
its own); and "left_out": what a peer lacks on this machine is said in one line, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks import contenders, machine
from mask2edge.benchmarks.contenders import INT8, OURS, REFERENCE, Contender, check_agreement
from mask2edge.benchmarks.peak_memory import peak_memory_mb
from mask2edge.benchmarks.peers import onnxruntime_stock
from mask2edge.benchmarks.peers.network import MissingPeer, Network
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer
from mask2edge.benchmarks.results_table import append_rows
from mask2edge.benchmarks.timed_engine import noise
from mask2edge.benchmarks.timing import interleave, summarize, timed
from mask2edge.runtime.command_line import (
    InputError,
    command,
    natural_number,
    parse_size,
    positive_float,
    positive_number,
    say,
)

RESULTS = Path(__file__).resolve().parent / "results" / "peers.csv"
COLUMNS = (
    "date", "commit", "machine", "cpu", "instruction_set", "threads", "versions", "backbone", "size", "contender",
    "runs", "network_p50_ms", "ratio", "ratio_q1", "ratio_q3", "ratio_of_fastest",
    "class_difference", "mask_difference", "peak_memory_mb",
)  # fmt: skip


def example_pixels(size: tuple[int, int]) -> np.ndarray:
    """The input of every contender: blurred noise, normalised as the models have it; float32 [1, 3, H, W]."""
    mean, std = np.float32((123.675, 116.28, 103.53)), np.float32((58.395, 57.12, 57.375))
    normalised = (noise(*size)[:, :, ::-1] - mean) / std  # [H, W, 3]
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)


def measure_memory(
    wanted: Sequence[Contender], peer: StockPeer, size: tuple[int, int], threads: int, paths: dict[str, Path]
) -> dict[str, float]:
    """MB of each by name; those that cannot be opened are left out here and named by `open_all`."""
    peaks = {}
    for contender in wanted:
        say(f"peak memory of {contender.name} …")
        try:
            peaks[contender.name] = peak_memory_mb(str(paths.get(contender.name, contender.name)), peer, size, threads)
        except MissingPeer:
            continue
    return peaks


def open_all(
    wanted: Sequence[Contender], peer: StockPeer, threads: int, pixels: np.ndarray
) -> tuple[dict[str, Network], dict[str, dict[str, float]], dict[str, str]]:
    """Networks that ran and agree, how far each is from ours, and why others are left out. Raises InputError."""
    networks: dict[str, Network] = {}
    agreement: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    ours: dict[str, np.ndarray] = {}
    for contender in sorted(wanted, key=lambda one: one.name != OURS):  # ours first: the others are compared with it
        say(f"opening {contender.name} …")
        try:
            network = contender.open(peer, threads)
            output = dict(network.run(pixels))
        except MissingPeer as error:
            left_out[contender.name] = str(error)
            say(f"left out: {error}")
            continue
        ours = ours or output
        agreement[contender.name] = check_agreement(contender, output, ours)
        networks[contender.name] = network
    return {one.name: networks[one.name] for one in wanted if one.name in networks}, agreement, left_out


def time_in_turns(
    networks: dict[str, Network], pixels: np.ndarray, runs: int | None, seconds: float | None, warmup: int
) -> dict[str, list[float]]:
    """Milliseconds of each run of each network, rounds in the same order for all."""

    say(f"timing {len(networks)} in turns: {', '.join(networks)}")
    contenders = {name: timed(lambda one=network: one.run(pixels)) for name, network in networks.items()}
    times = interleave(contenders, runs, seconds, warmup)
    return {name: [one["ms"] for one in found] for name, found in times.items()}


def ratios_of(times: dict[str, list[float]]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Of medians, to REFERENCE; and the quartiles of the ratios round by round, which say how sure it is."""
    reference = np.array(times[REFERENCE])  # [rounds]
    ratios, quartiles = {}, {}
    for name, found in times.items():
        ratios[name] = round(float(np.median(found) / np.median(reference)), 4)
        quartiles[name] = [round(float(q), 4) for q in np.percentile(np.array(found) / reference, (25, 75))]
    return ratios, quartiles


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """The JSON object of the module's docstring. Raises InputError."""
    size = parse_size(arguments.size)
    threads = arguments.threads or machine.describe()["cores"]
    named = arguments.peers
    if named is not None and arguments.int8_engine:
        named += f",{INT8}"
    wanted = contenders.chosen(named)
    engines = [contenders.engine_contender(path) for path in arguments.engine]
    names = [contender.name for contender in [*contenders.CONTENDERS.values(), *engines]]
    if len(set(names)) < len(names):
        raise InputError(f"--engine: expected folders of different names, got {', '.join(names)}; rename one")
    paths = dict(zip((engine.name for engine in engines), arguments.engine, strict=True))
    if arguments.int8_engine:
        paths[INT8] = arguments.int8_engine
        opened = contenders.engine_contender(arguments.int8_engine).open
        wanted = [replace(one, open=opened) if one.name == INT8 else one for one in wanted]
    wanted += engines
    peer = onnxruntime_stock.prepare(arguments.backbone, size)
    peaks = {} if arguments.no_memory else measure_memory(wanted, peer, size, threads, paths)
    pixels = example_pixels(size)
    networks, agreement, left_out = open_all(wanted, peer, threads, pixels)
    seconds = None if arguments.runs else arguments.seconds
    times = time_in_turns(networks, pixels, arguments.runs, seconds, arguments.warmup)
    ratios, quartiles = ratios_of(times)
    return {
        "ratios": ratios,
        "ratio_quartiles": quartiles,
        "ratios_of_fastest": {name: round(min(found) / min(times[REFERENCE]), 4) for name, found in times.items()},
        "backbone": arguments.backbone,
        "size": arguments.size,
        "threads": threads,
        "runs": len(times[REFERENCE]),
        "network_ms": {name: summarize(found) for name, found in times.items()},
        "agreement": agreement,
        "peak_memory_mb": peaks,
        "left_out": left_out,
        "machine": machine.describe() | {"instruction_set": machine.instruction_set()},
    }


def rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line of benchmarks/results/peers.csv for each contender."""
    described = result["machine"]
    for name, ratio in result["ratios"].items():
        yield {
            "date": machine.today(),
            "commit": machine.commit(),
            "machine": described["machine"],
            "cpu": described["cpu"],
            "instruction_set": " ".join(described["instruction_set"]),
            "threads": result["threads"],
            "versions": " ".join(f"{package}={version}" for package, version in described["versions"].items()),
            "backbone": result["backbone"],
            "size": result["size"],
            "contender": name,
            "runs": result["runs"],
            "network_p50_ms": result["network_ms"][name]["p50"],
            "ratio": ratio,
            "ratio_q1": result["ratio_quartiles"][name][0],
            "ratio_q3": result["ratio_quartiles"][name][1],
            "ratio_of_fastest": result["ratios_of_fastest"][name],
            "class_difference": result["agreement"][name]["class_logits"],
            "mask_difference": result["agreement"][name]["mask_logits"],
            "peak_memory_mb": result["peak_memory_mb"].get(name, ""),
        }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Lines for people, the fastest first."""
    yield "Mask2Former {backbone}, {size}, batch 1, {threads} threads, {runs} runs".format(**result)
    yield f"{'':<20}{'ratio':>8}{'quartiles':>16}{'of fastest':>12}{'ms':>10}{'peak MB':>10}{'logits differ by':>20}"
    for name, ratio in sorted(result["ratios"].items(), key=lambda item: item[1]):
        low, high = result["ratio_quartiles"][name]
        fastest, milliseconds = result["ratios_of_fastest"][name], result["network_ms"][name]["p50"]
        peak = f"{result['peak_memory_mb'][name]:.0f}" if name in result["peak_memory_mb"] else ""
        yield (
            f"{name:<20}{ratio:>8.3f}{f'{low:.3f}–{high:.3f}':>16}{fastest:>12.3f}{milliseconds:>10.1f}{peak:>10}"
            f"{max(result['agreement'][name].values()):>20.1e}"
        )
    for reason in result["left_out"].values():
        yield f"left out: {reason}"
    yield machine.one_line(result["machine"]) + "; " + " ".join(result["machine"]["instruction_set"])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Times Mask2Former in every CPU runtime, in turns, same weights and input.",
        epilog="example: python benchmarks/compare_peers.py --size 512x512 --threads 2 --save",
    )
    parser.add_argument("--size", default="512x512", metavar="HxW", help="default: %(default)s")
    parser.add_argument("--backbone", choices=onnxruntime_stock.BACKBONES, default="r50", help="default: %(default)s")
    parser.add_argument("--threads", type=positive_number, metavar="N", help="of each; default: the number of cores")
    parser.add_argument(
        "--peers", metavar="A,B", help=f"some of {', '.join(contenders.CONTENDERS)}; {REFERENCE} and {OURS} always are"
    )
    parser.add_argument("--int8-engine", type=Path, metavar="ENGINE", help="default: where the peer's cache has it")
    parser.add_argument("--engine", type=Path, action="append", default=[], metavar="ENGINE", help="one more of ours")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--runs", type=positive_number, metavar="N", help="timed runs of each")
    amount.add_argument(
        "--seconds", type=positive_float, default=120.0, metavar="S", help="of timed runs in all (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=natural_number, default=2, metavar="N", help="runs before (default: %(default)s)"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip the peak memory, a fresh process for each")
    parser.add_argument("--save", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    result = compare(arguments)
    if arguments.save:
        append_rows(RESULTS, COLUMNS, rows(result))
        say(f"appended to {RESULTS}")
    print(json.dumps(result) if arguments.json else "\n".join(table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
