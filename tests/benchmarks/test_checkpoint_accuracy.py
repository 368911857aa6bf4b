"""A checkpoint on PyTorch and what is exported from it score alike: accuracy.py differs in nothing but the network."""

import json

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks import accuracy
from mask2edge.benchmarks.artifact import open_artifact
from mask2edge.runtime.command_line import InputError

pytest.importorskip("torch")


@pytest.fixture
def blobs(color_data):
    """Images of random blobs, of another size than the network's input."""
    generator = np.random.default_rng(5)
    pairs = []
    for height, width in ((90, 120), (70, 60)):
        coarse = generator.integers(0, 3, (height // 10, width // 10))
        blob = cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(int)
        pairs.append((blob, blob))
    return color_data({"val": pairs})


def score(capsys, *arguments):
    assert accuracy.main([*map(str, arguments), "--task", "semantic", "--threads", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_checkpoint_onnx_and_engine_score_alike(tiny_checkpoint, tiny_onnx, blobs, tmp_path, capsys):
    from mask2edge.export import build_engine

    engine = tmp_path / "tiny.engine"
    assert build_engine.main([str(tiny_onnx), "--fp32", "--backend", "onnxruntime", "--out", str(engine)]) == 0
    capsys.readouterr()
    results = [score(capsys, artifact, "--data", blobs) for artifact in (tiny_checkpoint, tiny_onnx, engine)]
    for result in results[1:]:
        assert result["metrics"] == pytest.approx(results[0]["metrics"], abs=1e-3)
    with open_artifact(tiny_checkpoint) as on_torch, open_artifact(engine) as on_onnxruntime:
        image = cv2.imread(str(blobs / "val" / "0.png"))
        ours, theirs = (segmenter(image, task="semantic").label_map for segmenter in (on_torch, on_onnxruntime))
        assert len(np.unique(ours)) > 1  # a constant answer would prove nothing
        assert (ours == theirs).mean() > 0.999


def test_a_checkpoint_takes_its_own_size_or_the_one_asked_for(tiny_checkpoint):
    image = np.zeros((100, 100, 3), np.uint8)
    for options, shape in (({}, (64, 96)), ({"size": (96, 32)}, (96, 32)), ({"keep_ratio": True}, (96, 96))):
        with open_artifact(tiny_checkpoint, **options) as segmenter:
            pixels, _ = segmenter.prepare([image])
            assert pixels.shape[2:] == shape, options
            assert segmenter.session.run(pixels)["mask_logits"].shape == (1, 6, shape[0] // 4, shape[1] // 4)


def test_two_sizes_at_once_are_refused(tiny_checkpoint):
    with (
        pytest.raises(InputError, match="expected one of them, got both"),
        open_artifact(tiny_checkpoint, size=(64, 64), keep_ratio=True),
    ):
        pass


def test_a_truncated_checkpoint_is_one_line(tiny_checkpoint, blobs, tmp_path, capsys):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_checkpoint.read_bytes()[:1000])
    assert accuracy.main([str(broken), "--task", "semantic", "--data", str(blobs)]) == 2
    _, err = capsys.readouterr()
    assert err.count("error: ") == 1
    assert "expected a whole .safetensors file" in err
