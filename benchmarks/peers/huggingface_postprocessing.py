"""The peer `huggingface-postprocessing`: the post_process_* functions of transformers' Mask2Former image processor.

    post = HuggingFacePostprocessing(stuff={2, 3}, object_threshold=0.8, overlap_threshold=0.8)
    post("panoptic", class_logits, mask_logits, (1080, 1920))     # int [H0, W0]

Not the reference's arithmetic: masks go to 384x384 first, whatever the input's size and padding, and an instance's mask
from there by nearest neighbour. So its labels are near ours, and its cost is that of the public package.
"""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Collection
from typing import Any

import numpy as np

from mask2edge.benchmarks.peers.network import MissingPeer

NAME = "huggingface-postprocessing"
TASKS = ("semantic", "panoptic", "instance")


class HuggingFacePostprocessing:
    """One image at a time, from NumPy to NumPy. Raises MissingPeer without torch or transformers."""

    def __init__(self, stuff: Collection[int], object_threshold: float, overlap_threshold: float) -> None:
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingPeer(f"{NAME}: {package} is not installed; pip install 'mask2edge[bench]'")
        # The class for Pillow: the other wants torchvision, for its preprocessing alone.
        from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

        self._processor: Any = Mask2FormerImageProcessorPil()
        self._thresholds = {"threshold": object_threshold, "overlap_mask_area_threshold": overlap_threshold}
        self._stuff = set(stuff)

    def __call__(
        self, task: str, class_logits: np.ndarray, mask_logits: np.ndarray, image: tuple[int, int]
    ) -> np.ndarray:
        """class_logits [Q, K+1], mask_logits [Q, h, w] -> label map [H0, W0]: class ids, or segment ids from its own
        first (panoptic 1, instance 0)."""
        import torch

        outputs = types.SimpleNamespace(
            class_queries_logits=torch.from_numpy(class_logits)[None],  # [1, Q, K+1]
            masks_queries_logits=torch.from_numpy(mask_logits)[None],  # [1, Q, h, w]
        )
        processor, sizes = self._processor, [image]
        with torch.inference_mode():
            if task == "semantic":
                return processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].numpy()
            if task == "panoptic":
                found = processor.post_process_panoptic_segmentation(
                    outputs, target_sizes=sizes, label_ids_to_fuse=self._stuff, **self._thresholds
                )
            elif task == "instance":
                found = processor.post_process_instance_segmentation(outputs, target_sizes=sizes, **self._thresholds)
            else:
                raise ValueError(f"expected one of {', '.join(TASKS)}, got {task!r}")
        return found[0]["segmentation"].numpy()
