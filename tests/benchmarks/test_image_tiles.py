"""image_tiles.py: each pixel of an image, and of its labels, is in one tile; what is wrong is said, nothing written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2edge.benchmarks.image_tiles import main, tiles
from mask2edge.train.data.formats import recognise
from mask2edge.train.data.instance_labels import InstanceLabels


@given(st.integers(2, 400), st.integers(2, 400))
def test_tiles_cover_an_image_once_and_are_about_square(height: int, width: int) -> None:
    seen = np.zeros((height, width), int)
    names = set()
    for name, rows, columns in tiles(height, width):
        seen[rows, columns] += 1
        names.add(name)
        sides = rows.stop - rows.start, columns.stop - columns.start
        assert max(sides) <= 1.5 * min(sides) + 1
    assert (seen == 1).all()
    assert len(names) >= 4


def test_a_square_image_becomes_its_quarters() -> None:
    assert [(rows.start, columns.start) for _, rows, columns in tiles(256, 256)] == [
        (0, 0), (0, 128), (128, 0), (128, 128),
    ]  # fmt: skip


def write_data(folder: Path, shape: tuple[int, int] = (20, 30)) -> tuple[np.ndarray, np.ndarray]:
    """One image in the split val: its pixels [H, W, 3] as OpenCV has them, and labels [H, W] beyond 8 bits."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*shape, 3)).astype(np.uint8)
    labels = generator.integers(0, 400, shape).astype(np.uint16)
    for name, pixels in (("images", image), ("labels", labels)):
        (folder / "val" / name).mkdir(parents=True)
        cv2.imwrite(str(folder / "val" / name / "a.png"), pixels)
    return image, labels


def test_tiles_put_together_are_the_image_and_its_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, labels = write_data(tmp_path / "data")
    assert main([str(tmp_path / "data"), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles"] == {"val": 6}  # 20x30: halves of 10 down, thirds of 10 across
    for name, whole in (("images", image), ("labels", labels)):
        read = [
            [
                cv2.imread(str(tmp_path / f"out/val/{name}/a-{row}{column}.png"), cv2.IMREAD_UNCHANGED)
                for column in "012"
            ]
            for row in "01"
        ]
        np.testing.assert_array_equal(np.concatenate([np.concatenate(line, axis=1) for line in read]), whole)
    assert recognise(tmp_path / "out") == "instance-labels"
    assert len(InstanceLabels(tmp_path / "out", "val")) == 6


def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "thin", (1, 9))
    write_data(tmp_path / "data")
    (tmp_path / "taken").mkdir()
    (tmp_path / "empty").mkdir()
    for data, out, message in (
        ("thin", "out", "expected at least 2x2 pixels, got 1x9"),
        ("empty", "out", "expected splits such as train/images with train/labels, found none"),
        ("data", "taken", "is there already; name a new folder"),
    ):
        assert main([str(tmp_path / data), str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "taken").iterdir())
