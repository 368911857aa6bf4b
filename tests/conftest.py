"""Makes the helpers beside this file importable in every test (`import reference_models`); models of a session."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# The native tests' cmake and ninja are installed beside Python, which need not be on the PATH.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))

# Side by side, workers with two spinning threads each are up to ten times slower than workers with one.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make test &` of a script starts with Ctrl-C ignored, and hands that down: tests of it would send signals to nobody.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class HuggingFaceImport:
    backbone: str  # "r50" or "swin-t"
    model: Any  # Mask2FormerForUniversalSegmentation, float32, eval mode; copy it before changing it
    folder: Path  # as save_pretrained wrote it
    checkpoint: Path  # as train/import_weights.py wrote it


@pytest.fixture(scope="session", params=["r50", "swin-t"])
def huggingface_import(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceImport:
    """A random full-size Hugging Face model, its folder, and the checkpoint imported from it."""
    pytest.importorskip("transformers", reason="the oracle is Hugging Face's implementation: pip install transformers")
    from reference_models import huggingface_mask2former, save_folder

    from mask2edge.train.import_weights import main

    root = tmp_path_factory.mktemp(f"huggingface-{request.param}")
    model = huggingface_mask2former(request.param, seed=0)
    folder = save_folder(model, root / "hf")
    assert main([str(folder), "--out", str(root / "model.safetensors")]) == 0
    return HuggingFaceImport(request.param, model, folder, root / "model.safetensors")
