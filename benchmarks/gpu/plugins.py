"""Step `plugins`: the plugin library for this GPU, compiled from the sources, and TensorRT's registry with it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from mask2edge.benchmarks.gpu.rows import PASSED, RowFile
from mask2edge.trt_plugins import PLUGIN_LIBRARY_NAME

ROOT = Path(__file__).resolve().parents[2]


def run(rows: RowFile, out: Path, data: Path | None) -> None:
    from mask2edge.benchmarks.gpu_check import LIBRARY_LINK

    build = out / "plugins"
    started = time.perf_counter()
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DMASK2EDGE_TENSORRT=ON", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", str(build), "--parallel", "--target", "mask2edge_tensorrt"]):
        subprocess.run(command, check=True)
    rows.measured("compiled in", f"{time.perf_counter() - started:.0f} s")
    library = build / PLUGIN_LIBRARY_NAME
    link = out / LIBRARY_LINK
    link.unlink(missing_ok=True)
    link.symlink_to(library)
    import tensorrt

    from mask2edge.trt_plugins import register_plugins

    register_plugins(tensorrt, library)
    rows.add("registered in TensorRT", tensorrt.__version__, PASSED)
