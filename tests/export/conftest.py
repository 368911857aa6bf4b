"""A tiny network's graphs and checkpoint, each made once a session: an export takes seconds."""

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_export import CLASSES, QUERIES, randomise, tiny_network, tiny_spec

from mask2edge.runtime.spec import Profile
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import ModelConfig
from mask2edge.train.model.mask2former import Mask2Former, build_model


@pytest.fixture(scope="session")
def network() -> Mask2Former:
    return tiny_network()


@pytest.fixture(scope="session")
def exported(network: Mask2Former) -> Callable[[str, Profile], onnx.ModelProto]:
    """exported(ops, profile): the tiny network as ONNX; each is made on first use."""
    from mask2edge.export.to_onnx import export_model

    cache: dict[tuple[str, Profile], onnx.ModelProto] = {}

    def export(ops: str, profile: Profile) -> onnx.ModelProto:
        if (ops, profile) not in cache:
            cache[ops, profile] = export_model(network, tiny_spec(), profile, ops, "0" * 64)
        return cache[ops, profile]

    return export


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as train.py writes them."""
    config = ModelConfig(
        "efficientnet-lite0", CLASSES, QUERIES, hidden_dim=64, num_heads=4,
        encoder_layers=1, encoder_ffn=64, decoder_layers=1, decoder_ffn=64,
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, randomise(build_model(config)).state_dict(), config, tiny_spec())
    return path
