"""A result's segments as plain values: what is sent to another program, printed as JSON lines or written into a table.

    entries(result)     # [{"id", "label_id", "label", "is_thing", "score", "area", "box", "rle"}, …]
    describe(result)    # {"task", "width", "height", "segments": entries}

Boxes are [x0, y0, x1, y1] in pixels with x1 and y1 exclusive, areas are in pixels, `rle` is COCO's
{"size": [H, W], "counts": compressed string}. json.dumps takes all of it.
"""

from __future__ import annotations

from typing import Any

from mask2edge.runtime.results import Segment, Segmentation


def entries(result: Segmentation) -> list[dict[str, Any]]:
    """One dictionary a segment, in the result's order."""
    return [entry(segment) for segment in result.segments]


def entry(segment: Segment) -> dict[str, Any]:
    return {
        "id": int(segment.id),
        "label_id": int(segment.label_id),
        "label": segment.label,
        "is_thing": segment.is_thing,
        "score": round(float(segment.score), 5),
        "area": int(segment.area),
        "box": [int(edge) for edge in segment.box],
        "rle": segment.rle,
    }


def describe(result: Segmentation) -> dict[str, Any]:
    """The whole result but for its label map."""
    height, width = result.size
    return {"task": result.task, "width": int(width), "height": int(height), "segments": entries(result)}
