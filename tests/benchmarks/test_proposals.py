"""Proposals of a network whose right answer is known, of a real one, and the command."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2edge.benchmarks import proposals
from mask2edge.benchmarks.proposal_pictures import best_proposals, picture
from mask2edge.benchmarks.proposals import LEARNED, PROPOSALS, evaluate, main, propose
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing
from mask2edge.train.checkpoint import save_checkpoint
from mask2edge.train.config import ModelConfig
from mask2edge.train.data.annotation import Annotation
from mask2edge.train.model.mask2former import build_model

LABELS = (Label(0, "cell", True, (255, 0, 0), 1), Label(1, "ground", False, (0, 0, 255), 2))
SPEC = ModelSpec(
    "cells", LABELS, 5, Preprocessing((0, 0, 0), (255, 255, 255), "keep-ratio", 64, 96), Postprocessing(),
    tasks=("instance",), size=(64, 96),
)  # fmt: skip
CONFIG = ModelConfig(
    "efficientnet-lite0", 2, 5, hidden_dim=32, num_heads=2, encoder_layers=1, encoder_ffn=32,
    decoder_layers=2, decoder_ffn=32,
)  # fmt: skip


class Cells:
    """A data set: a red, a green and a blue box on black, each an object, and the ground."""

    root, split = Path("cells"), "val"

    def __init__(self, count=3, labels=LABELS):
        self.labels = labels
        self.samples = [self.sample(np.random.default_rng(seed)) for seed in range(count)]

    def sample(self, rng):
        image, plane = np.zeros((64, 80, 3), np.uint8), np.full((64, 80), 4, np.int32)
        for channel in range(3):
            y, x = 20 * channel, 4 * int(rng.integers(0, 10))
            image[y : y + 16, x : x + 24, channel] = 255
            plane[y : y + 16, x : x + 24] = channel + 1
        return image, Annotation(plane[None], np.array([0, 0, 0, 1]), np.zeros(4, bool))

    def __len__(self):
        return len(self.samples)

    def name(self, index):
        return f"{index}.png"

    def image(self, index):
        return self.samples[index][0]

    def annotation(self, index):
        return self.samples[index][1]

    def __getitem__(self, index):
        return self.samples[index]


class Seer(torch.nn.Module):
    """Query q sees channel q; the learned queries see the whole image, and queries 3 and 4 nothing."""

    def __init__(self):
        super().__init__()
        self.mask_decoder = SimpleNamespace(layers=[None], guided_queries=None)

    def forward(self, pixels):
        seen = F.avg_pool2d(pixels, 4) * 20 - 10  # [N, 3, H/4, W/4]
        nothing = torch.full_like(seen[:, :2], -10.0)
        classes = torch.zeros(1, 5, 3)
        classes[:, 3:, 2] = 10.0
        everything = torch.full_like(torch.cat([seen, nothing], 1), 10.0)
        return {
            "class_logits": classes,
            "mask_logits": torch.cat([seen, nothing], 1),
            "auxiliary": [{"class_logits": classes, "mask_logits": everything}],
        }


def test_a_network_that_sees_the_objects_recalls_them(tmp_path):
    metrics = evaluate(Seer(), SPEC, Cells(), pictures=tmp_path)
    assert list(metrics) == [LEARNED, "layer 1"]
    assert metrics[LEARNED]["AR@100"] == 0
    assert metrics["layer 1"]["AR@100"] > 0.85  # bilinear masks miss the corners
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]
    assert cv2.imread(str(tmp_path / "0.png")).shape == (4 * 64 + 24, 3 * 4 * 80 + 2 * 6, 3)  # titles fit


def test_every_prediction_of_a_network_proposes():
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    image = Cells(1).image(0)
    regions = dict(propose(model, SPEC, image))
    assert list(regions) == [LEARNED, "layer 1", "layer 2"]
    pixels = torch.zeros(1, 3, 64, 96)
    pixels[0, :, :, :80] = torch.from_numpy(image).permute(2, 0, 1) / 255
    with torch.no_grad():
        outputs = model(pixels)
    for prediction, (masks, scores) in zip([*outputs["auxiliary"], outputs], regions.values(), strict=True):
        wanted = 1 - prediction["class_logits"][0].softmax(-1)[:, -1]
        order = wanted.argsort(descending=True)
        np.testing.assert_allclose(scores, wanted[order], atol=1e-6)
        full = F.interpolate(prediction["mask_logits"], (64, 96), mode="bilinear")[0, order, :, :80]
        assert (masks != (full > 0).numpy()).mean() < 1e-3
    assert all(len(masks) <= PROPOSALS for masks, _ in regions.values())


def test_queries_that_predict_nothing_before_the_layers_are_not_among_them():
    for query_features in ("zero", "unsupervised"):
        config = ModelConfig(**{**vars(CONFIG), "query_features": query_features})
        assert list(dict(propose(build_model(config).eval(), SPEC, Cells(1).image(0)))) == ["layer 1", "layer 2"]


def test_data_without_things_are_refused():
    with pytest.raises(InputError, match="cells: expected classes that are things, got none"):
        evaluate(Seer(), SPEC, Cells(1, LABELS[1:]))


def test_best_proposals():
    objects, masks = np.zeros((2, 4, 4), bool), np.zeros((3, 4, 4), bool)
    objects[0, :2], objects[1, 2:] = True, True
    masks[0, 2:, :2], masks[2, :2] = True, True
    chosen, iou = best_proposals(objects, masks)
    assert chosen.tolist() == [2, 0]
    assert iou.tolist() == [1.0, 0.5]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """tiny.safetensors and data/, instance label images."""
    root = tmp_path_factory.mktemp("proposals")
    torch.manual_seed(0)
    save_checkpoint(root / "tiny.safetensors", build_model(CONFIG).state_dict(), CONFIG, SPEC)
    for name in ("images", "labels"):
        (root / "data" / "val" / name).mkdir(parents=True)
    for index, (image, annotation) in enumerate(Cells(2).samples):
        cv2.imwrite(str(root / f"data/val/images/{index}.png"), image[:, :, ::-1])
        plane = annotation.planes[0]
        cv2.imwrite(str(root / f"data/val/labels/{index}.png"), np.where(plane == 4, 0, plane).astype(np.uint16))
    return root


def test_the_command(files, tmp_path, capsys):
    words = [str(files / "tiny.safetensors"), "--data", str(files / "data")]
    assert main([*words, "--json", "--limit", "1", "--out", str(tmp_path / "pictures")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["split"], result["proposals"]) == (1, "val", 100)
    assert list(result["metrics"]) == [LEARNED, "layer 1", "layer 2"]
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["0.png"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15].strip() for line in lines] == ["", LEARNED, "layer 1", "layer 2"]


def test_label_images_take_the_model_s_names_where_it_has_one_thing(files, capsys, monkeypatch):
    """As in accuracy.py: a model of two classes of things lends the objects no name."""
    opened = []
    monkeypatch.setattr(proposals, "evaluate", lambda model, spec, data, *more: opened.append(data.labels) or {})
    assert main([str(files / "tiny.safetensors"), "--data", str(files / "data"), "--format", "instance-labels"]) == 0
    things = replace(SPEC, labels=(LABELS[0], replace(LABELS[1], is_thing=True)))
    other = files / "things.safetensors"
    save_checkpoint(other, build_model(CONFIG).state_dict(), CONFIG, things)
    assert main([str(other), "--data", str(files / "data")]) == 0
    assert [[label.name for label in labels] for labels in opened] == [["cell", "ground"], ["object"]]


def test_pictures_do_not_go_to_a_file(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(proposals, "evaluate", lambda *_: pytest.fail("images were measured first"))
    (tmp_path / "taken").touch()
    words = [str(files / "tiny.safetensors"), "--data", str(files / "data"), "--out", str(tmp_path / "taken")]
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: --out: expected a folder, got the file {tmp_path / 'taken'}\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "nowhere"), "--data: expected a folder, got 'nowhere'"),
        (("--data", "nowhere", "--format", "semantic"), "--data: expected a folder, got 'nowhere'"),
        (("--split", "test"), "test"),
        (("--format", "semantic"), "expected a split val, or one split alone; got none"),
    ],
)
def test_bad_input(files, capsys, more, message):
    assert main([str(files / "tiny.safetensors"), "--data", str(files / "data"), *more]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((64, 80), (256, 320)), ((300, 300), (300, 300)), ((600, 40), (600, 40)), ((1280, 640), (640, 320)),
        ((1280, 100), (640, 50)), ((30, 30), (270, 270)),
    ],
)  # fmt: skip
def test_small_pictures_are_enlarged_and_large_ones_shrunk(shape, shown):
    image = np.zeros((*shape, 3), np.uint8)
    assert picture(image, np.ones((1, *shape), bool), {}).shape == (shown[0] + 24, shown[1], 3)
