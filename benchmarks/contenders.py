"""Who takes part in a comparison: our engines and every peer, by name, each with how far its logits may be from ours.

    network = CONTENDERS["openvino-fp32"].open(peer, 2)       # peer: onnxruntime_stock.prepare's; MissingPeer: left out
    check_agreement(CONTENDERS["openvino-fp32"], network.run(pixels), ours)

All have the same weights. What a contender imports, it imports when it is opened: a process that opens one of them
holds nothing of the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mask2edge.benchmarks.demo import sample_photograph
from mask2edge.benchmarks.own_engine import fresh_engine
from mask2edge.benchmarks.peers import onnxruntime_stock, openvino_stock, torch_compile, torch_eager
from mask2edge.benchmarks.peers.network import MissingPeer, Network
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer, relative_error
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import EngineSpec

REFERENCE = "onnxruntime-stock"  # whose time is 1
OURS = "mask2edge-fp32"  # whose logits the others are compared with
INT8 = "mask2edge-int8"
# Relative L2 differences of logits. fp32: rounding makes 1e-6, and where it flips an attended pixel, later layers
# differ by more. bf16: torch's own autocast to bf16 makes 0.09 and 0.03 with these random weights; twice that. int8: on
# random weights its error says nothing about a trained model's; the bound is there to notice other weights, whose
# logits differ by 1 and more.
BOUNDS = {"fp32": 0.05, "bf16": 0.2, "fp16": 0.2, "int8": 0.7}


@dataclass(frozen=True)
class Contender:
    """`open` takes the weights' folder and the number of threads, None for the package's own choice."""

    name: str
    precision: str  # one of BOUNDS
    open: Callable[[StockPeer, int | None], Network]


def open_engine(path: Path, threads: int | None) -> Network:
    """An engine's session, as the runtime opens it. Raises InputError for anything else."""
    from mask2edge.runtime.segmenter import Segmenter

    return Segmenter.load(path, threads=threads).session


def _open_ours(peer: StockPeer, threads: int | None) -> Network:
    return open_engine(peer.engine, threads)


def _open_int8(peer: StockPeer, threads: int | None) -> Network:
    """Of random weights, so that two photographs are as good a calibration as any: its time is meant, not its masks."""
    try:
        photographs = sample_photograph().parent
    except InputError as error:
        raise MissingPeer(f"{INT8}: {error}") from error
    _, height, width = EngineSpec.load(peer.engine).profile.opt
    flags = ("--int8", "--calibration", str(photographs))
    return open_engine(fresh_engine(peer.checkpoint, peer.int8_engine, (height, width), flags), threads)


def _open_stock(peer: StockPeer, threads: int | None) -> Network:
    return onnxruntime_stock.StockSession(peer.onnx, threads)


CONTENDERS: Mapping[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(REFERENCE, "fp32", _open_stock),
        Contender(OURS, "fp32", _open_ours),
        Contender(INT8, "int8", _open_int8),
        Contender("openvino-fp32", "fp32", functools.partial(openvino_stock.open_network, "openvino-fp32")),
        Contender("openvino-bf16", "bf16", functools.partial(openvino_stock.open_network, "openvino-bf16")),
        Contender(torch_eager.NAME, "fp32", torch_eager.open_network),
        Contender(torch_compile.NAME, "fp32", torch_compile.open_network),
    )
}


def engine_contender(path: Path) -> Contender:
    """Any engine besides, by the name of its folder. Raises InputError where there is none."""
    precision = EngineSpec.load(path).precision
    return Contender(path.stem, precision, lambda _, threads: open_engine(path, threads))


def chosen(names: str | None) -> list[Contender]:
    """`a,b` -> those and the two that every comparison has; None: all. Raises InputError for an unknown name."""
    if names is None:
        return list(CONTENDERS.values())
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in CONTENDERS]
    if unknown:
        raise InputError(f"--peers: expected some of {', '.join(CONTENDERS)}, got {unknown[0]!r}; separate by commas")
    return [contender for name, contender in CONTENDERS.items() if name in (REFERENCE, OURS, *wanted)]


def check_agreement(
    contender: Contender, found: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Relative L2 differences from our fp32 logits on the same input. Raises InputError beyond what is allowed."""
    errors = {
        name: relative_error(found[name], value) if found[name].shape == value.shape else float("inf")
        for name, value in ours.items()
    }
    bound = BOUNDS[contender.precision]
    if not all(error <= bound for error in errors.values()):  # NaN agrees with nothing
        shown = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        raise InputError(
            f"{contender.name}: expected the logits of {OURS} within {bound} (relative), got {shown}; "
            "it has other weights, or computes something else"
        )
    return {name: float(f"{error:.3g}") for name, error in errors.items()}
