"""The peers `openvino-fp32` and `openvino-bf16`: the same stock export in OpenVINO's CPU plugin.

The latency hint, one stream, and the inference precision by name: without it, OpenVINO takes bf16 wherever the CPU has
it. A CPU without bf16 would emulate it, which nobody would choose: there, openvino-bf16 is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mask2edge.benchmarks.peers.network import MissingPeer
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer

PRECISIONS = {"openvino-fp32": "f32", "openvino-bf16": "bf16"}
OUTPUTS = ("class_logits", "mask_logits")


class OpenVinoNetwork:
    """A compiled model with one inference request, which is used again for each run."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """pixels float32 [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
        found = self._request.infer({"pixels": pixels}, share_inputs=True)
        return {name: np.asarray(found[name], np.float32) for name in OUTPUTS}


def open_network(name: str, peer: StockPeer, threads: int | None) -> OpenVinoNetwork:
    """`name` is one of PRECISIONS. Raises MissingPeer without OpenVINO, or for bf16 on a CPU without it."""
    try:
        import openvino
    except ImportError as error:
        raise MissingPeer(f"{name}: openvino is not installed ({error}); pip install 'mask2edge[bench]'") from error

    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if name == "openvino-bf16" and "BF16" not in capabilities:
        raise MissingPeer(
            f"{name}: this CPU has no bf16 arithmetic (OpenVINO lists {', '.join(capabilities)}); it would be emulated"
        )
    return OpenVinoNetwork(core.compile_model(str(peer.onnx), "CPU", settings(name, threads)))


def settings(name: str, threads: int | None) -> dict[str, Any]:
    """OpenVINO's properties for one of PRECISIONS; 0 threads are its own choice."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISIONS[name],
        "INFERENCE_NUM_THREADS": threads or 0,
    }
