"""Engine -> masks, with NumPy, OpenCV and one backend. Never imports torch, onnx, train or export.

from mask2edge.runtime import Segmenter
result = Segmenter.load("artifacts/street-lite-fp16.engine")(cv2.imread("street.jpg"), task="semantic")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask2edge.runtime.results import Segment, Segmentation
    from mask2edge.runtime.segmenter import Segmenter

__all__ = ["Segment", "Segmentation", "Segmenter"]


def __getattr__(name: str) -> Any:
    # Lazy, so that train and export can import `runtime.spec` without NumPy's and OpenCV's start-up.
    if name == "Segmenter":
        from mask2edge.runtime.segmenter import Segmenter

        return Segmenter
    if name in ("Segment", "Segmentation"):
        from mask2edge.runtime import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
