"""One table of cases for the custom operators: tests/trt_plugins proves them on it, benchmarks/kernels.py times them.

    case = CASES["deformable-512"]
    session = fused_session(case, library, threads=2)
    session.run(None, case.inputs())[0]      # [N, Lq, M*D]

Needs numpy, onnx and onnxruntime; the stock graphs that kernels.py compares with need torch besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mask2edge.trt_plugins import OP_DOMAIN, OP_VERSION


@dataclass(frozen=True)
class DeformableCase:
    """MultiscaleDeformableAttention; queries None: one for each pixel, as in the encoder."""

    shapes: tuple[tuple[int, int], ...]
    heads: int = 8
    head_dim: int = 32
    points: int = 4
    batch: int = 1
    queries: int | None = None
    shared_reference: bool = True
    spread: float = 1.0  # standard deviation of the offsets, in pixels

    op = "MultiscaleDeformableAttention"

    @property
    def attributes(self) -> dict[str, int]:
        return {"num_heads": self.heads, "num_points": self.points}

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        samples = self.heads * len(self.shapes) * self.points
        centres = [
            np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1).reshape(-1, 2)  # [H*W, 2]
            for h, w in self.shapes
        ]
        reference = np.concatenate(centres)[None]  # [1, S, 2]
        if self.queries is not None:
            reference = random.uniform(-0.1, 1.1, (1, self.queries, 2))
        if not self.shared_reference:
            reference = reference + random.uniform(-0.05, 0.05, (self.batch, *reference.shape[1:]))
        queries, rows = reference.shape[1], sum(h * w for h, w in self.shapes)
        return {
            "value": normal(random, self.batch, rows, self.heads * self.head_dim),
            "offsets": normal(random, self.batch, queries, samples * 2) * np.float32(self.spread),
            "logits": normal(random, self.batch, queries, samples),
            "reference_points": reference.astype(np.float32),
            "spatial_shapes": np.array(self.shapes, np.int32),
        }

    def reference(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """OPS.md's definition spelled out in float64, one gather per corner; [N, Lq, M*D]."""
        value, offsets, logits, reference = (inputs[name].astype(np.float64) for name in list(inputs)[:4])
        (batch, queries), levels, heads, points = logits.shape[:2], len(self.shapes), self.heads, self.points
        value = value.reshape(batch, -1, heads, self.head_dim)
        weights = softmax(logits.reshape(batch, queries, heads, levels * points))
        weights = weights.reshape(batch, queries, heads, levels, points)
        offsets = offsets.reshape(batch, queries, heads, levels, points, 2)
        output = np.zeros((batch, queries, heads, self.head_dim))
        images, of_head, start = np.arange(batch)[:, None, None, None], np.arange(heads)[None, None, :, None], 0
        for level, (height, width) in enumerate(self.shapes):
            place = reference[:, :, None, None] * [width, height] + offsets[:, :, :, level] - 0.5  # [N, Lq, M, P, 2]
            low = np.floor(place)
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                corner = low + np.array([dx, dy])
                x, y = corner[..., 0], corner[..., 1]
                share = np.prod(1 - np.abs(place - corner), -1) * weights[:, :, :, level]  # [N, Lq, M, P]
                share = share * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
                row = start + np.clip(y, 0, height - 1).astype(int) * width + np.clip(x, 0, width - 1).astype(int)
                output += (value[images, row, of_head] * share[..., None]).sum(3)
            start += height * width
        return output.reshape(batch, queries, heads * self.head_dim)


@dataclass(frozen=True)
class MaskedCase:
    """MaskedAttention with masks as models predict them: one ellipse a query, `density` of the area on average."""

    queries: int
    height: int
    width: int
    density: float
    heads: int = 8
    head_dim: int = 32
    batch: int = 1

    op = "MaskedAttention"

    @property
    def attributes(self) -> dict[str, int]:
        return {"num_heads": self.heads}

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        keys, channels = self.height * self.width, self.heads * self.head_dim
        y, x = np.mgrid[: self.height, : self.width] + 0.5  # [H, W] each
        mask_logits = np.empty((self.batch, self.queries, self.height, self.width), np.float32)
        for mask in mask_logits.reshape(-1, self.height, self.width):
            centre_y, centre_x = random.uniform(0, self.height), random.uniform(0, self.width)
            stretch, area = random.uniform(0.5, 2.0), self.density * keys / np.pi
            mask[:] = area - ((y - centre_y) ** 2 * stretch + (x - centre_x) ** 2 / stretch)
        if self.density >= 1:
            mask_logits[:] = 1
        elif self.queries > 1:
            mask_logits[:, -1] = -1  # a query without a mask sees all
        return {
            "query": normal(random, self.batch, self.queries, channels),
            "key": normal(random, self.batch, keys, channels),
            "value": normal(random, self.batch, keys, channels),
            "mask_logits": mask_logits.reshape(self.batch, self.queries, keys),
        }

    def reference(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """OPS.md's definition in float64; [N, Q, M*D]."""
        query, key, value = (
            inputs[name].astype(np.float64).reshape(self.batch, -1, self.heads, self.head_dim)  # [N, Q or S, M, D]
            for name in ("query", "key", "value")
        )
        attended = inputs["mask_logits"] >= 0  # [N, Q, S]
        attended |= ~attended.any(-1, keepdims=True)
        scores = np.einsum("nqmd,nsmd->nmqs", query, key) / np.sqrt(self.head_dim)  # [N, M, Q, S]
        weights = softmax(np.where(attended[:, None], scores, -np.inf))
        return np.einsum("nmqs,nsmd->nqmd", weights, value).reshape(inputs["query"].shape)


Case = DeformableCase | MaskedCase

# What the R50 model runs at 512x512: an encoder layer, and the decoder's three scales. Timed and tested.
TIMED: Mapping[str, Case] = {
    "deformable-512": DeformableCase(((16, 16), (32, 32), (64, 64))),
    "deformable-512-lite": DeformableCase(((16, 16), (32, 32), (64, 64)), head_dim=16),
    "masked-256": MaskedCase(100, 16, 16, 0.2),
    "masked-1024": MaskedCase(100, 32, 32, 0.2),
    "masked-4096": MaskedCase(100, 64, 64, 0.2),
    "masked-4096-sparse": MaskedCase(100, 64, 64, 0.1),
    "masked-4096-all": MaskedCase(100, 64, 64, 1.0),
}

# Shapes at the edges. Tested only.
SMALL: Mapping[str, Case] = {
    "one-pixel": DeformableCase(((1, 1),), heads=2, head_dim=16, queries=5),
    "odd-maps": DeformableCase(((5, 7), (3, 3), (1, 2)), heads=4, batch=2, queries=50, points=3),
    "own-reference-points": DeformableCase(((6, 4), (3, 2)), heads=2, batch=3, shared_reference=False),
    "far-outside": DeformableCase(((8, 8), (4, 4)), heads=2, queries=40, spread=1e4),
    "head-size-64": DeformableCase(((8, 8), (4, 4), (2, 2)), head_dim=64, queries=17),
    "head-size-5": DeformableCase(((9, 4),), heads=3, head_dim=5, queries=40, points=1),
    "head-size-24-many-points": DeformableCase(((3, 5),), heads=2, head_dim=24, queries=9, points=17),
    "no-queries": DeformableCase(((3, 5),), heads=2, queries=0),
    "four-levels": DeformableCase(((2, 9), (5, 3), (1, 1), (4, 4)), heads=1, head_dim=16, queries=33),
    "one-key": MaskedCase(3, 1, 1, 0.5, heads=2, head_dim=8),
    "odd-masks": MaskedCase(37, 7, 11, 0.2, heads=4, batch=2),
    "one-query": MaskedCase(1, 5, 13, 0.3),
    "head-size-64-masked": MaskedCase(17, 9, 11, 0.4, heads=2, head_dim=64),
    "head-size-5-masked": MaskedCase(20, 6, 10, 0.3, heads=3, head_dim=5),
    "head-size-16-masked": MaskedCase(50, 16, 12, 0.1, head_dim=16),
    "no-masked-queries": MaskedCase(0, 4, 4, 0.3),
}

CASES: Mapping[str, Case] = {**TIMED, **SMALL}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(-1, keepdims=True)


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape, np.float32)


def one_node_model(
    op: str, attributes: Mapping[str, float], inputs: Mapping[str, np.ndarray], constants: Sequence[str] = ()
) -> bytes:
    """An ONNX model of the operator alone; every axis that a run may change is symbolic. `constants`: inputs that are
    weights.
    """
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32}
    declared = [
        helper.make_tensor_value_info(name, types[array.dtype], [f"{name}_{axis}" for axis in range(array.ndim)])
        for name, array in inputs.items()
        if name not in constants
    ]
    weights = [numpy_helper.from_array(inputs[name], name) for name in constants]
    node = helper.make_node(op, list(inputs), ["output"], domain=OP_DOMAIN, **attributes)
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], op, declared, [output], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(OP_DOMAIN, OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def session_of(model: bytes, library: Path | None, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A pool spins on for a while after its last run: on the cores that the other side is being timed on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # an error is raised; it need not be printed besides
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def fused_session(case: Any, library: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """The custom operator alone in a session; `case`: of this table or of cpu_kernel_cases.py."""
    constants = getattr(case, "constant_inputs", ())  # of a kernel of the CPU alone
    return session_of(one_node_model(case.op, case.attributes, case.inputs(), constants), library, threads)
