"""Cases for the operators that are of the CPU alone, as kernel_cases.py has them for the others.

case = CPU_TIMED["convolution-128"]
inputs = case.inputs()
fused_session(case, library, threads=2).run(None, fed(case, inputs))[0]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mask2edge.benchmarks.kernel_cases import normal


@dataclass(frozen=True)
class NormalizationCase:
    """AddLayerNormalization, which is of the CPU alone."""

    rows: tuple[int, ...]
    channels: int = 256
    offset: float = 0.0  # added to all values: what E[s²] - mean² would not survive

    op = "AddLayerNormalization"
    constant_inputs = ()
    attributes: ClassVar[dict[str, float]] = {"epsilon": 1e-5}

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        return {
            "x": normal(random, *self.rows, self.channels) + np.float32(self.offset),
            "residual": normal(random, *self.rows, self.channels),
            "scale": normal(random, self.channels),
            "bias": normal(random, self.channels),
        }

    def reference(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """In float64; as x."""
        x, residual, scale, bias = (inputs[name].astype(np.float64) for name in ("x", "residual", "scale", "bias"))
        both = (x + residual).astype(np.float32).astype(np.float64)  # the sum is rounded: with an offset, visibly
        deviation = both - both.mean(-1, keepdims=True)
        variance = np.mean(deviation**2, -1, keepdims=True)
        return deviation / np.sqrt(variance + self.attributes["epsilon"]) * scale + bias


@dataclass(frozen=True)
class ConvolutionCase:
    """Convolution3x3, which is of the CPU alone."""

    filters: int
    channels: int
    height: int
    width: int
    batch: int = 1
    relu: bool = False

    op = "Convolution3x3"
    constant_inputs = ("weight", "bias")

    @property
    def attributes(self) -> dict[str, int]:
        return {"relu": int(self.relu)}

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        weight = normal(random, self.filters, self.channels, 3, 3) / np.float32(3 * self.channels**0.5)
        return {
            "x": normal(random, self.batch, self.channels, self.height, self.width),
            "weight": weight,
            "bias": normal(random, self.filters),
        }

    def reference(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """In float64, one shifted map for each of the nine weights; [N, O, H, W]."""
        x, weight, bias = (array.astype(np.float64) for array in inputs.values())
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))  # [N, C, H+2, W+2]
        output = np.zeros((self.batch, self.filters, self.height, self.width)) + bias[:, None, None]
        for row, column in np.ndindex(3, 3):
            shifted = padded[:, :, row : row + self.height, column : column + self.width]  # [N, C, H, W]
            output += np.einsum("oc,nchw->nohw", weight[:, :, row, column], shifted)
        return np.maximum(output, 0) if self.relu else output


CpuCase = NormalizationCase | ConvolutionCase

# What follows an encoder layer's blocks, the convolution of the finest map, and the edges.
CPU_TIMED: Mapping[str, CpuCase] = {
    "normalization-5376": NormalizationCase((1, 5376)),
    "convolution-128": ConvolutionCase(256, 256, 128, 128),
}
CPU_SMALL: Mapping[str, CpuCase] = {
    "one-row": NormalizationCase((1,)),
    "one-channel": NormalizationCase((3, 5), channels=1),
    "odd-channels": NormalizationCase((2, 33), channels=77),
    "fewer-channels-than-lanes": NormalizationCase((7,), channels=3),
    "many-channels": NormalizationCase((2, 3, 2), channels=20_000),
    "far-from-zero": NormalizationCase((40,), channels=96, offset=1000.0),
    "no-rows": NormalizationCase((2, 0), channels=16),
    "whole-tiles": ConvolutionCase(32, 32, 16, 64),
    "odd-map": ConvolutionCase(33, 37, 13, 19, batch=2, relu=True),
    "smaller-than-a-tile": ConvolutionCase(40, 33, 2, 3),
    "one-column": ConvolutionCase(8, 5, 21, 1),
    "wide-map": ConvolutionCase(8, 5, 3, 401, relu=True),
    "no-images": ConvolutionCase(8, 5, 3, 4, batch=0),
}


def fed(case: CpuCase, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of `inputs` that a run takes; the session has the constant ones, of the case's first seed."""
    return {name: array for name, array in inputs.items() if name not in case.constant_inputs}
