"""The peer `onnxruntime-stock`: Hugging Face's Mask2Former, exported by torch.onnx as it is, in plain ONNX Runtime.

    peer = prepare("r50", (512, 512))      # writes artifacts/peers/stock-r50-512x512/ once
    peer.onnx, peer.engine                 # the stock export, and an engine of ours with the very same weights

Random weights from a fixed seed: they decide no latency. The export is what a user gets today without us: 18 GridSample
for the deformable attention, 10 Einsum for the masks. Making it needs torch and transformers; timing it needs neither.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask2edge.benchmarks.own_engine import fresh_engine, run_python, run_script
from mask2edge.runtime.command_line import InputError, say, sha256_of, whole_folder

NAME = "onnxruntime-stock"
BACKBONES = ("r50", "r101", "swin-t")
SEED = 0
OPSET = 20
RECIPE = 1  # raised when what is written changes, so that an older cache is not taken for it
CACHE = Path("artifacts/peers")
_RESNET_DEPTHS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}


@dataclass(frozen=True)
class StockPeer:
    """A folder with both sides: the stock export, and our engine of the same weights."""

    folder: Path

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def weights(self) -> Path:
        """As Hugging Face stores them: config.json and model.safetensors."""
        return self.folder / "hf"

    @property
    def checkpoint(self) -> Path:
        """The same weights, imported."""
        return self.folder / "ours.safetensors"

    @property
    def engine(self) -> Path:
        return self.folder / "ours.engine"

    @property
    def int8_engine(self) -> Path:
        """Where a comparison looks for one; `prepare` makes none, since it takes images to calibrate on."""
        return self.folder / "ours-int8.engine"


class StockSession:
    """The stock ONNX file in ONNX Runtime with its defaults: all graph optimisations, our number of threads."""

    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """pixels float32 [N, 3, H, W] -> class_logits [N, Q, K+1], mask_logits [N, Q, H/4, W/4]."""
        class_logits, mask_logits = self._session.run(["class_logits", "mask_logits"], {"pixels": pixels})
        return {"class_logits": class_logits, "mask_logits": mask_logits}


def prepare(backbone: str, size: tuple[int, int], cache: Path = CACHE) -> StockPeer:
    """Both sides, made where absent. Raises InputError where that needs packages that are not installed."""
    if backbone not in BACKBONES:
        raise InputError(f"--backbone: expected one of {', '.join(BACKBONES)}, got {backbone!r}")
    peer = StockPeer(cache / f"stock-{backbone}-{size[0]}x{size[1]}")
    recipe = {"recipe": RECIPE, "backbone": backbone, "size": list(size), "seed": SEED, "opset": OPSET}
    if not _is_up_to_date(peer, recipe):
        with whole_folder(peer.folder) as folder:
            say(f"{NAME}: writing a random Hugging Face Mask2Former {backbone} and its stock export ({peer.folder})")
            _in_a_process_of_its_own(backbone, size, folder)
            recipe["sha256"] = sha256_of(folder / "model.onnx")
            (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    if not peer.checkpoint.is_file():
        run_script("train/import_weights.py", str(peer.weights), "--out", str(peer.checkpoint))
    fresh_engine(peer.checkpoint, peer.engine, size)
    return peer


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """|ours - theirs| / |theirs| in the L2 norm: a flipped attention pixel moves it little, a wrong weight much."""
    difference = np.linalg.norm(ours.astype(np.float64) - theirs)
    return float(difference / max(float(np.linalg.norm(theirs.astype(np.float64))), 1e-12))


def write_stock_export(backbone: str, size: tuple[int, int], folder: Path) -> None:
    """Writes hf/ (config.json, model.safetensors) and model.onnx into `folder`. Needs torch and transformers."""
    import torch
    from transformers import Mask2FormerForUniversalSegmentation

    torch.manual_seed(SEED)
    model = Mask2FormerForUniversalSegmentation(_config(backbone)).eval()
    if backbone.startswith("swin"):
        model.set_attn_implementation("eager")  # the exporter cannot follow the fused attention's window shapes
    model.save_pretrained(folder / "hf")

    class Stock(torch.nn.Module):
        """Names the two outputs; nothing else differs from what `transformers` computes."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.model(pixel_values=pixels)
            return output.class_queries_logits, output.masks_queries_logits  # [N, Q, K+1], [N, Q, H/4, W/4]

    pixels = torch.randn(1, 3, *size)  # [1, 3, H, W]
    with torch.no_grad():
        torch.onnx.export(
            Stock().eval(), (pixels,), str(folder / "model.onnx"), dynamo=True, opset_version=OPSET,
            input_names=["pixels"], output_names=["class_logits", "mask_logits"], external_data=False, verbose=False,
        )  # fmt: skip


def _config(backbone: str) -> Any:
    from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    if backbone in _RESNET_DEPTHS:
        backbone_config = ResNetConfig(depths=list(_RESNET_DEPTHS[backbone]), out_features=stages)
    else:
        backbone_config = SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, drop_path_rate=0.3,
            out_features=stages,
        )  # fmt: skip
    # All else is the default, which is the paper's: hidden 256, 6 + 9 layers, 100 queries, FFN 1024 and 2048.
    return Mask2FormerConfig(backbone_config=backbone_config, num_labels=133)


def _is_up_to_date(peer: StockPeer, recipe: dict[str, Any]) -> bool:
    try:
        written = json.loads((peer.folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return peer.onnx.is_file() and written == {**recipe, "sha256": sha256_of(peer.onnx)}


def _in_a_process_of_its_own(backbone: str, size: tuple[int, int], folder: Path) -> None:
    """torch's threads and memory stay out of the process that measures."""
    run_python("-m", "mask2edge.benchmarks.peers.onnxruntime_stock", backbone, str(size[0]), str(size[1]), str(folder))


if __name__ == "__main__":
    write_stock_export(sys.argv[1], (int(sys.argv[2]), int(sys.argv[3])), Path(sys.argv[4]))
