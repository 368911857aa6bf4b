"""What every peer is once it is ready: the same network of the same weights, from pixels to logits.

    network = openvino_stock.open_network(peer, threads=2, precision="f32")     # or MissingPeer: why it is left out
    network.run(pixels)["mask_logits"]                                          # float32 [N, Q, H/4, W/4]

`peer` is onnxruntime_stock.prepare's: the weights as Hugging Face stores them, their stock export, and ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mask2edge.runtime.command_line import InputError


class Network(Protocol):
    """A session of this project has the same method."""

    def run(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        """Normalised pixels float32 [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
        ...


class MissingPeer(InputError):
    """This machine lacks what the peer needs. A comparison goes on without it, and says so in this one line."""
