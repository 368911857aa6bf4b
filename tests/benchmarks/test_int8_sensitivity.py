"""int8_sensitivity.py: labels are counted in the model's classes; data of others are refused before anything runs."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.benchmarks.int8_sensitivity import Labels
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Label, ModelSpec, Postprocessing, Preprocessing

LABELS = (Label(0, "cell", True, (255, 0, 0), 1), Label(1, "background", False, (0, 0, 255), 2))
SPEC = ModelSpec("cells", LABELS, 5, Preprocessing((0, 0, 0), (255, 255, 255), "keep-ratio", 32, 32), Postprocessing())


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Instance label images of one class: the background has no label of its own."""
    for name in ("images", "labels"):
        (tmp_path / "val" / name).mkdir(parents=True)
    for index in range(2):
        plane = np.zeros((8, 8), np.uint16)
        plane[:4, : 4 + 2 * index] = 1 + index
        cv2.imwrite(str(tmp_path / f"val/labels/{index}.png"), plane)
        cv2.imwrite(str(tmp_path / f"val/images/{index}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "classes.txt").write_text("cell\n")
    return tmp_path


def test_labels_are_counted_in_the_models_classes(cells: Path) -> None:
    """16 and 24 of 64 pixels are cells; nothing but background leaves an IoU of 0 and of 88 / 128."""
    labels = Labels(SPEC, cells, 2)
    right = [np.where(cv2.imread(str(cells / f"val/labels/{i}.png"), cv2.IMREAD_UNCHANGED) > 0, 0, 1) for i in (0, 1)]
    assert labels.miou(right) == 1.0
    assert labels.miou([np.ones((8, 8), int)] * 2) == pytest.approx(88 / 128 / 2)


def test_data_of_other_classes_are_refused(cells: Path) -> None:
    other = replace(SPEC, labels=(replace(LABELS[0], name="dog"), LABELS[1]))
    with pytest.raises(InputError, match="expected labels in the model's classes"):
        Labels(other, cells, 2)
