"""A tiny engine whose right answers are known: its queries answer to colours.

Query 0 finds red, 1 green, 2 blue and 4 white; 3 is a second, weaker blue; 5 is no object. Colours are averaged over
4x4 pixels, so that a picture of plain rectangles on that grid gives masks that end where the rectangles do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.segmenter import Segmenter
from mask2edge.runtime.spec import EngineSpec, Label, ModelSpec, Postprocessing, Preprocessing, Profile

NAMES = ("ball", "leaf", "sky", "snow")
THINGS = (True, True, False, False)
QUERY_CLASSES = (0, 1, 2, 2, 3, 4)  # 4: no object
QUERY_LOGITS = (9.0, 9.0, 9.0, 6.0, 9.0, 9.0)  # of that class; the others have 0
COLOR_WEIGHTS = ((8, -8, -8), (-8, 8, -8), (-8, -8, 8), (-8, -8, 8), (8, 8, 8), (0, 0, 0))  # on RGB in -1..1


def _toy_spec(
    tasks: tuple[str, ...] = ("panoptic", "instance", "semantic"), things: bool = True, **rules: object
) -> ModelSpec:
    labels = tuple(
        Label(index, name, THINGS[index] if things else None, (50 * index, 200 - 50 * index, 90), 100 + index)
        for index, name in enumerate(NAMES)
    )
    edges = {"shortest_edge": 64, "longest_edge": 128, **rules}
    preprocessing = Preprocessing((127.5,) * 3, (127.5,) * 3, **edges)
    return ModelSpec("toy", labels, len(QUERY_CLASSES), preprocessing, Postprocessing(), tasks, (64, 96))


def write_toy_model(path: Path, batch: int | None = None) -> None:
    """`batch` None leaves it free; heights and widths are free."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    queries, classes = len(QUERY_CLASSES), len(NAMES) + 1
    class_logits = np.zeros((1, queries, classes), np.float32)
    class_logits[0, np.arange(queries), QUERY_CLASSES] = QUERY_LOGITS
    constants = {
        "weight": np.array(COLOR_WEIGHTS, np.float32).reshape(queries, 3, 1, 1),
        "bias": np.full(queries, -12, np.float32),
        "nothing": np.zeros((1, 3, 1, 1), np.float32),
        "classes": class_logits,
        "flat": np.array([-1, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["coarse"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["coarse", "weight", "bias"], ["mask_logits"]),
        # A zero for each image of the batch, onto which the constant class logits are broadcast.
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Conv", ["mean", "nothing"], ["zero"]),
        helper.make_node("Reshape", ["zero", "flat"], ["zeros"]),
        helper.make_node("Add", ["zeros", "classes"], ["class_logits"]),
    ]
    size = batch or "N"
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [size, 3, "H", "W"])],
        [
            helper.make_tensor_value_info("class_logits", TensorProto.FLOAT, [size, queries, classes]),
            helper.make_tensor_value_info("mask_logits", TensorProto.FLOAT, [size, queries, "h", "w"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


@pytest.fixture
def toy_spec() -> Callable[..., ModelSpec]:
    """toy_spec(tasks, things=True, **fields of Preprocessing)"""
    return _toy_spec


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Path]:
    """make_engine(profile, model=the toy's, **fields of EngineSpec) -> the engine's folder."""

    def make(
        profile: Profile | None = None, model: ModelSpec | None = None, name: str = "toy", **fields: object
    ) -> Path:
        profile = profile or Profile((1, 32, 32), (1, 64, 96), (4, 128, 128))
        folder = tmp_path / f"{name}.engine"
        folder.mkdir()
        fixed_batch = profile.max[0] if profile.min[0] == profile.max[0] else None
        write_toy_model(folder / "model.onnx", fixed_batch)
        spec = EngineSpec(
            model or _toy_spec(), profile, "onnxruntime", "1", "fp32", "standard", 1,
            {"model.onnx": sha256_of(folder / "model.onnx")},
        )  # fmt: skip
        dataclasses.replace(spec, **fields).save(folder)
        return folder

    return make


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 [64, 96, 3] BGR: left half red; of the right half the upper part blue, the lower white."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = (0, 0, 255)
    image[:32, 48:] = (255, 0, 0)
    image[32:, 48:] = (255, 255, 255)
    return image


@pytest.fixture
def segmenter(make_engine):
    with Segmenter.load(make_engine(), threads=1) as loaded:
        yield loaded
