"""Step `device`: what the figures of this report belong to."""

from __future__ import annotations

from pathlib import Path

from mask2edge.benchmarks.gpu.rows import RowFile
from mask2edge.runtime.device_memory import open_device


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    with open_device() as device:
        found = device.properties
        rows.measured("GPU", f"{found.name}, SM {found.sm // 10}.{found.sm % 10}, {found.multiprocessors} SMs")
        kind = "shared with the CPU" if found.integrated else "its own"
        rows.measured("memory", f"{found.total_memory / 2**30:.1f} GiB, {kind}")
        bandwidth = f"{found.memory_bandwidth / 1e9:.0f} GB/s" if found.memory_bandwidth else "the driver does not say"
        rows.measured("memory bandwidth, at best", bandwidth)
        rows.measured("CUDA binding", device.binding)
    import tensorrt

    rows.measured("TensorRT", tensorrt.__version__)
