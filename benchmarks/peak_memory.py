"""The most memory that a network takes, loading included: opened and run by itself in a fresh process.

    peak_memory_mb("openvino-fp32", peer, (512, 512), threads=2)      # MB of the whole process, Python included

Linux's VmHWM, which begins anew with the program. getrusage's ru_maxrss does not: a process started from a large one
begins with that one's size, and so serves only where there is no /proc.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from mask2edge.benchmarks.peers.network import MissingPeer
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer
from mask2edge.runtime.command_line import EXIT_BAD_INPUT, InputError, command

RUNS = 3
STATUS = Path("/proc/self/status")


def peak_memory_mb(name: str, peer: StockPeer, size: tuple[int, int], threads: int | None) -> float:
    """`name` is a contender's, or the folder of an engine. Raises MissingPeer as its `open` does."""
    arguments = [name, str(peer.folder), str(size[0]), str(size[1]), str(threads or 0)]
    done = subprocess.run(
        [sys.executable, "-m", "mask2edge.benchmarks.peak_memory", *arguments],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    if done.returncode == EXIT_BAD_INPUT:
        raise MissingPeer(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise InputError(f"{name}: its process ended with exit code {done.returncode}: {lines[-1]}")
    return float(done.stdout.split()[-1])


def peak_of_this_process_mb() -> float:
    """Since the program began."""
    try:
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@command
def main(argv: list[str] | None = None) -> int:
    """NAME FOLDER HEIGHT WIDTH THREADS -> the peak on the last line of stdout."""
    from mask2edge.benchmarks.contenders import CONTENDERS, open_engine

    name, folder, height, width, threads = sys.argv[1:] if argv is None else argv
    if name in CONTENDERS:
        network = CONTENDERS[name].open(StockPeer(Path(folder)), int(threads) or None)
    else:
        network = open_engine(Path(name), int(threads) or None)
    pixels = np.random.default_rng(0).standard_normal((1, 3, int(height), int(width)), np.float32)  # [1, 3, H, W]
    for _ in range(RUNS):
        network.run(pixels)
    print(f"{peak_of_this_process_mb():.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
