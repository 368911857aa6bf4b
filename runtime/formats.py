"""Results as files that other tools read: COCO panoptic PNG and JSON, COCO instance results, class-id PNG.

panoptic_png(result)                       # uint8 [H, W, 3] RGB: id = R + 256 G + 256² B
instance_results(result, image_id=139)     # a list of dictionaries for pycocotools' loadRes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2edge.runtime.command_line import InputError, whole_file
from mask2edge.runtime.results import Segment, Segmentation
from mask2edge.runtime.spec import Label


def panoptic_png(result: Segmentation) -> np.ndarray:
    """Segment ids as colours, uint8 [H, W, 3] RGB; 0 is no segment (panopticapi's id2rgb)."""
    ids = np.ascontiguousarray(result.label_map, "<i4")  # its bytes are the colours
    return ids.view(np.uint8).reshape(*result.size, 4)[:, :, :3]  # [H, W, 3]


def panoptic_annotation(result: Segmentation, image_id: int, file_name: str) -> dict[str, Any]:
    """One entry of COCO's panoptic `annotations`; `file_name` is the PNG's."""
    return {
        "image_id": image_id,
        "file_name": file_name,
        "segments_info": [
            {
                "id": segment.id,
                "category_id": result.labels[segment.label_id].category_id,
                "area": segment.area,
                "bbox": _coco_box(segment),
                "iscrowd": 0,
                "score": round(segment.score, 5),
            }
            for segment in result.segments
        ],
    }


def instance_results(result: Segmentation, image_id: int) -> list[dict[str, Any]]:
    """COCO results with compressed run lengths, the surest first."""
    return [
        {
            "image_id": image_id,
            "category_id": result.labels[segment.label_id].category_id,
            "bbox": _coco_box(segment),
            "score": round(segment.score, 5),
            "segmentation": segment.rle,
        }
        for segment in reversed(result.segments)
    ]


def semantic_png(result: Segmentation) -> np.ndarray:
    """The classes' ids: uint8 [H, W], uint16 for more than 256 classes."""
    return result.label_map.astype(np.uint8 if len(result.labels) <= 256 else np.uint16)


def categories(labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    """COCO's `categories`."""
    return [
        {"id": label.category_id, "name": label.name, "color": list(label.color)}
        | ({} if label.is_thing is None else {"isthing": int(label.is_thing)})
        for label in labels
    ]


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes a picture (BGR, or grey) whole or not at all; the suffix is the format. Raises InputError."""
    with whole_file(path) as temporary:
        try:
            encoded, data = cv2.imencode(path.suffix, image)
            if encoded:
                temporary.write_bytes(data.tobytes())  # cv2.imwrite crashes on a name that is not UTF-8
        except cv2.error as error:
            raise InputError(f"{path}: OpenCV cannot write an image of this kind or size") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        if not encoded:
            raise InputError(f"{path}: OpenCV cannot write an image of this kind or size")


def _coco_box(segment: Segment) -> list[int]:
    x0, y0, x1, y1 = segment.box
    return [x0, y0, x1 - x0, y1 - y0]
