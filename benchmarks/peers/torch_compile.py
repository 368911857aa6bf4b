"""The peer `torch-compile`: torch.compile with inductor, its default, on the model of torch_eager.

The first run compiles C++ for a minute or two; inductor keeps what it compiled in a cache of its own.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np

from mask2edge.benchmarks.peers.network import MissingPeer
from mask2edge.benchmarks.peers.onnxruntime_stock import StockPeer
from mask2edge.benchmarks.peers.torch_eager import TorchNetwork, load_model

NAME = "torch-compile"
COMPILERS = ("g++", "clang++", "c++")


class CompiledNetwork:
    """Compiles at its first run."""

    def __init__(self, model: Any) -> None:
        import torch

        self._network = TorchNetwork(torch.compile(model))
        self._compiled = False

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As TorchNetwork.run. Raises MissingPeer where the first run shows that inductor cannot compile."""
        if self._compiled:
            return self._network.run(pixels)
        import torch

        try:
            output = self._network.run(pixels)
        except torch._dynamo.exc.TorchDynamoException as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise MissingPeer(f"{NAME}: inductor cannot compile here: {first}") from error
        self._compiled = True
        return output


def open_network(peer: StockPeer, threads: int | None) -> CompiledNetwork:
    """The compiled model of peer.weights. Raises MissingPeer without torch, transformers or a C++ compiler."""
    model = load_model(NAME, peer, threads)
    if find_compiler() is None:
        raise MissingPeer(f"{NAME}: inductor needs a C++ compiler, and there is none; install g++ or set CXX")
    return CompiledNetwork(model)


def find_compiler() -> str | None:
    """The compiler that inductor would take: $CXX, or the first of COMPILERS that is there."""
    named = os.environ.get("CXX")
    return next((path for name in ([named] if named else COMPILERS) if (path := shutil.which(name))), None)
