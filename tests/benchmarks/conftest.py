"""An engine whose right answer is known: a red pixel is class 0, a green one class 1, a blue one class 2."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.spec import EngineSpec, Label, ModelSpec, Postprocessing, Preprocessing, Profile

COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)  # RGB by class
NAMES = ("red", "green", "blue")


def color_spec(
    name: str = "colors",
    size: tuple[int, int] = (64, 96),
    tasks: tuple[str, ...] = ("semantic",),
    names: tuple[str, ...] = NAMES,
) -> ModelSpec:
    """All but the last class are things, where the tasks are not semantic alone."""
    things = [None if tasks == ("semantic",) else name != names[-1] for name in names]
    labels = tuple(Label(i, n, things[i], tuple(int(c) for c in COLORS[i]), 10 + i) for i, n in enumerate(names))
    rules = Preprocessing((0, 0, 0), (255, 255, 255), "keep-ratio", 64, 128)
    return ModelSpec(name, labels, 3, rules, Postprocessing(), tasks, size)


def color_network(batch: int, height: int, width: int, classes: int = 3) -> onnx.ModelProto:
    """Query q is surely class q, or none where there are fewer, and its mask is where channel q is bright."""
    class_logits = np.full((batch, 3, classes + 1), -10, np.float32)
    class_logits[:, np.arange(3), np.minimum(np.arange(3), classes)] = 10
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["pooled", "gain"], ["bright"]),
        helper.make_node("Sub", ["bright", "offset"], ["mask_logits"]),
        helper.make_node("Identity", ["classes"], ["class_logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, height, width])],
        [
            helper.make_tensor_value_info("class_logits", TensorProto.FLOAT, [batch, 3, classes + 1]),
            helper.make_tensor_value_info("mask_logits", TensorProto.FLOAT, [batch, 3, height // 4, width // 4]),
        ],
        [
            numpy_helper.from_array(np.float32(20), "gain"),
            numpy_helper.from_array(np.float32(10), "offset"),
            numpy_helper.from_array(class_logits, "classes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def color_engine(tmp_path: Path) -> Callable[..., Path]:
    """color_engine(name="colors", batch=1, size=(64, 96), tasks=("semantic",), names=NAMES) -> an engine's folder."""

    def make(
        name: str = "colors",
        batch: int = 1,
        size: tuple[int, int] = (64, 96),
        tasks: tuple[str, ...] = ("semantic",),
        names: tuple[str, ...] = NAMES,
    ) -> Path:
        folder = tmp_path / f"{name}.engine"
        folder.mkdir()
        onnx.save(color_network(batch, *size, len(names)), folder / "model.onnx")
        EngineSpec(
            model=color_spec(name, size, tasks, names),
            profile=Profile.fixed(*size, batch),
            backend="onnxruntime",
            backend_version="1.0",
            precision="fp32",
            ops="standard",
            op_library_version=1,
            files={"model.onnx": sha256_of(folder / "model.onnx")},
        ).save(folder)
        return folder

    return make


@pytest.fixture
def color_data(tmp_path: Path) -> Callable[..., Path]:
    """color_data({"val": [(painted, truth), …]}) -> a semantic folder; both are class maps, truth may hold 255."""

    def make(splits: dict[str, list[tuple[np.ndarray, np.ndarray]]], names: tuple[str, ...] = NAMES) -> Path:
        root = tmp_path / "data"
        for split, pairs in splits.items():
            (root / split).mkdir(parents=True)
            (root / f"{split}annot").mkdir()
            for number, (painted, truth) in enumerate(pairs):
                cv2.imwrite(str(root / split / f"{number}.png"), COLORS[painted][:, :, ::-1])
                cv2.imwrite(str(root / f"{split}annot" / f"{number}.png"), truth.astype(np.uint8))
        (root / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        return root

    return make


@pytest.fixture
def coco_data(tmp_path: Path) -> Callable[..., Path]:
    """coco_data([(painted, segment_map, [(class, is_crowd), …]), …]) -> a coco-panoptic folder with the split val.

    painted: a class map; segment_map: 1, 2, … for the entries of the list, and 0 for void.
    """

    def make(samples: list[tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]]) -> Path:
        root = tmp_path / "coco"
        (root / "annotations/panoptic_val").mkdir(parents=True)
        (root / "val").mkdir()
        images, annotations = [], []
        for number, (painted, segment_map, segments) in enumerate(samples):
            cv2.imwrite(str(root / f"val/{number}.png"), COLORS[painted][:, :, ::-1])
            ids = np.stack([0 * segment_map, 0 * segment_map, segment_map], axis=2)  # [H, W, 3] BGR: the id is red
            cv2.imwrite(str(root / f"annotations/panoptic_val/{number}.png"), ids.astype(np.uint8))
            height, width = segment_map.shape
            images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
            info = [
                {"id": i, "category_id": 10 + label, "iscrowd": crowd, "area": int((segment_map == i).sum()),
                 "bbox": [0, 0, width, height]}
                for i, (label, crowd) in enumerate(segments, start=1)
            ]  # fmt: skip
            annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
        categories = [{"id": 10 + i, "name": name, "isthing": int(i < 2)} for i, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations/panoptic_val.json").write_text(json.dumps(content), encoding="utf-8")
        return root

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.safetensors, with street.png beside it."""
    pytest.importorskip("torch")
    from tiny_checkpoint import write_tiny_checkpoint

    folder = tmp_path_factory.mktemp("tiny")
    coarse = np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8)
    cv2.imwrite(str(folder / "street.png"), cv2.resize(coarse, (120, 80), interpolation=cv2.INTER_CUBIC))
    return write_tiny_checkpoint(folder / "tiny.safetensors")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_checkpoint: Path) -> Path:
    """Exported from it with standard ops, beside it; an export takes seconds."""
    from mask2edge.export import to_onnx

    path = tiny_checkpoint.with_suffix(".onnx")
    assert to_onnx.main([str(tiny_checkpoint), "--ops", "standard", "--out", str(path)]) == 0
    return path
