"""The peer `torch-eager`: Hugging Face's Mask2FormerForUniversalSegmentation as `from_pretrained` gives it.

torch's threads spin for a few milliseconds after their work, and that is left as it is: with OMP_WAIT_POLICY=passive
they would sleep at once, which slows torch itself, and timing.py waits for them before the next contender anyway. On a
machine that other work shares, passive is steadier: set it in the environment.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from mask2edge.benchmarks.peers.network import MissingPeer
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer

NAME = "torch-eager"


class TorchNetwork:
    """A Hugging Face model in inference mode, float32."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """pixels float32 [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
        import torch

        with torch.inference_mode():
            output = self._model(pixel_values=torch.from_numpy(pixels))
        return {
            "class_logits": output.class_queries_logits.numpy(),
            "mask_logits": output.masks_queries_logits.numpy(),
        }


def open_network(peer: StockPeer, threads: int | None) -> TorchNetwork:
    """The model of peer.weights. Raises MissingPeer without torch or transformers."""
    return TorchNetwork(load_model(NAME, peer, threads))


def load_model(name: str, peer: StockPeer, threads: int | None) -> Any:
    """Mask2FormerForUniversalSegmentation in eval mode; `name` is the peer that a refusal speaks of.

    The number of threads is torch's for the whole process.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingPeer(f"{name}: {package} is not installed; pip install 'mask2edge[bench]'")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it warns of a ResNet; the paper's own model has one
    if threads:
        torch.set_num_threads(threads)
    model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(peer.weights, dtype=torch.float32)
    return model.eval()
