"""Small data sets of every format, written for tests. All hold the same picture: see `scene`."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

CATEGORIES = [
    {"id": 18, "name": "dog", "isthing": 1, "color": [9, 8, 7]},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 100, "name": "grass", "isthing": 0},
]


def scene() -> tuple[np.ndarray, np.ndarray]:
    """RGB [24, 32, 3] and segments [24, 32]: 1 and 2 cars, 3 a crowd of dogs, 4 grass in two parts, 0 nothing."""
    segments = np.zeros((24, 32), np.int32)
    segments[2:8, 2:10] = 1
    segments[2:8, 14:20] = 2
    segments[10:14, :] = 3
    segments[16:20, 4:12] = 4
    segments[20:24, 20:30] = 4
    image = np.stack([segments * 50, np.full_like(segments, 77), 200 - segments * 10], -1).astype(np.uint8)
    return image, segments


SCENE_CATEGORIES = {1: 3, 2: 3, 3: 18, 4: 100}  # segment -> category id


def write_image(path: Path, image: np.ndarray) -> None:
    """RGB, or one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def write_coco_panoptic(root: Path, split: str = "train2017", count: int = 3, nested: bool = False) -> Path:
    """Segment k of image i has the id 70_000 * k + i, which needs all three colours."""
    image, segments = scene()
    rows, annotations = [], []
    for index in range(count):
        name = f"{index:03}"
        write_image(root / ("images" if nested else "") / split / f"{name}.png", image)
        ids = np.where(segments > 0, 70_000 * segments + index, 0)
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        write_image(root / f"annotations/panoptic_{split}/{name}.png", colors)
        rows.append({"id": index + 10, "file_name": f"{name}.png", "height": 24, "width": 32})
        infos = [
            {
                "id": 70_000 * k + index,
                "category_id": category,
                "iscrowd": int(k == 3),
                "area": int((segments == k).sum()),
            }
            for k, category in SCENE_CATEGORIES.items()
        ]
        annotations.append({"image_id": index + 10, "file_name": f"{name}.png", "segments_info": infos})
    write_json(root / f"annotations/panoptic_{split}.json", rows, annotations, CATEGORIES)
    return root


def write_json(path: Path, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def change_json(path: Path, **changes: Any) -> None:
    """Each change is a function of the list under its key, which it may edit in place."""
    data = json.loads(path.read_text())
    for key, change in changes.items():
        change(data[key])
    path.write_text(json.dumps(data))


def write_instance_labels(root: Path, split: str = "train", count: int = 3) -> Path:
    """Objects 1, 2, 3 and 700 of the scene, in 16 bits."""
    image, segments = scene()
    for index in range(count):
        write_image(root / f"{split}/images/{index:03}.png", image)
        write_image(root / f"{split}/labels/{index:03}.png", np.where(segments == 4, 700, segments).astype(np.uint16))
    return root


SEMANTIC_NAMES = ("sky", "road", "car")


def write_semantic(root: Path, split: str = "train", nested: bool = False, count: int = 3) -> Path:
    """Images of 6x8 with blue = 10 * index, and label maps that hold every class, 3 (= ignore) and 255."""
    images = root / "images" / split if nested else root / split
    labels = root / "annotations" / split if nested else root / f"{split}annot"
    for index in range(count):
        image = np.zeros((6, 8, 3), np.uint8)
        image[..., 0] = 200
        image[..., 2] = 10 * index
        write_image(images / f"{index:03}.png", image)
        label_map = np.arange(48, dtype=np.uint8).reshape(6, 8) % 4
        label_map[0, 0] = 255
        write_image(labels / f"{index:03}.png", label_map)
    (root / "classes.txt").write_text("\n".join(SEMANTIC_NAMES) + "\n")
    return root


INSTANCE_CATEGORIES = [{"id": 9, "name": "box"}, {"id": 2, "name": "star"}]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """RLE as pycocotools writes it."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """RLE as lengths of runs down the columns, zeros first."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


def write_coco_instances(root: Path, split: str = "train2017", folder: str = "train2017") -> Path:
    """Image 0: a polygon of two parts, both kinds of RLE, a crowd; they overlap. Image 1: nothing. Image 2: one."""
    image, segments = scene()
    for index in range(3):
        write_image(root / folder / f"{index}.png", image)
    shapes: list[Any] = [
        [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0], [20, 16, 30, 16, 25, 22]],
        uncompressed(segments == 2),
        compressed((segments == 1) | (segments == 3)),
        uncompressed(segments == 4),
    ]
    rows = [
        {"id": 50 + k, "image_id": 0, "category_id": (9, 2, 2, 9)[k], "iscrowd": int(k == 3), "segmentation": shape}
        for k, shape in enumerate(shapes)
    ]
    rows.append({"id": 60, "image_id": 2, "category_id": 9, "segmentation": compressed(segments == 1)})
    images = [{"id": index, "file_name": f"{index}.png", "height": 24, "width": 32} for index in range(3)]
    write_json(root / f"annotations/instances_{split}.json", images, rows, INSTANCE_CATEGORIES)
    return root
