"""What a backend's session is to the rest of the runtime, and the checks that all of them share.

    outputs = session.run(pixels)      # {"class_logits": [N, Q, K+1], "mask_logits": [N, Q, H/4, W/4]}

The sessions: session_onnxruntime.py on the CPU, session_tensorrt.py on an NVIDIA GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import SIZE_DIVISOR, Profile

if TYPE_CHECKING:
    from mask2edge.runtime.lane_pool import Pending
    from mask2edge.runtime.results import Segmentation

INPUT = "pixels"
OUTPUTS = ("class_logits", "mask_logits")


class Session(Protocol):
    """A loaded engine."""

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Normalised pixels, float32 [N, 3, H, W] within the profile -> float32 class_logits [N, Q, K+1] and
        mask_logits [N, Q, H/4, W/4]. Raises InputError for another shape or type.
        """

    def close(self) -> None:
        """Frees what the session holds; it cannot be used any more. May be called again."""


class Elsewhere:
    """In place of a session where another process runs the network: a `Segmenter` prepares and finishes alone."""

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        raise InputError("the network runs elsewhere; this segmenter prepares images and finishes logits alone")

    def close(self) -> None:
        """Nothing is open."""


@runtime_checkable
class ImageSession(Session, Protocol):
    """One that can also prepare images and make the masks where the network runs."""

    on_device: bool  # it has all that this takes; otherwise the caller prepares pixels and finishes the logits

    contexts: int  # how many batches it works on at a time

    def segment_images(self, batches: Sequence[Sequence[np.ndarray]], task: str) -> list[Segmentation]:
        """Batches of images, uint8 [H, W, 3] BGR, none larger than the profile's -> one result for each image."""

    def segment_async(
        self, images: Sequence[np.ndarray], task: str, times: dict[str, float] | None = None
    ) -> Pending[list[Segmentation]]:
        """One batch, without waiting. `times`, where given, gets the device's milliseconds for preprocess, network and
        postprocess, once the result is there.
        """


def check_pixels(pixels: Any, profile: Profile) -> None:
    """Raises InputError where `pixels` is not what an engine of this profile takes."""
    ranges = [str(low) if low == high else f"{low}..{high}" for low, high in zip(profile.min, profile.max, strict=True)]
    expected = f"float32 [{ranges[0]}, 3, {ranges[1]}, {ranges[2]}]"
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 4 or pixels.dtype != np.float32 or pixels.shape[1] != 3:
        got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InputError(f"pixels: expected {expected}, got {got}; runtime/preprocess.py makes them")
    sizes = (pixels.shape[0], pixels.shape[2], pixels.shape[3])
    fits = all(low <= size <= high for low, size, high in zip(profile.min, sizes, profile.max, strict=True))
    if not fits or sizes[1] % SIZE_DIVISOR or sizes[2] % SIZE_DIVISOR:
        raise InputError(
            f"pixels: expected {expected} with height and width multiples of {SIZE_DIVISOR}, "
            f"got {list(pixels.shape)}; pad them, or build an engine for this size"
        )


def first_line(error: BaseException | str) -> str:
    """Of another library's message: short enough for one line of ours."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
