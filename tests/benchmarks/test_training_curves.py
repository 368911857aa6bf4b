"""training_curves.py: the picture holds what was logged, the same rows give the same file, and faults are one line."""

import json

import numpy as np
import pytest

from mask2edge.benchmarks import training_curves

pytest.importorskip("matplotlib", reason="the plot is drawn with matplotlib (extra bench)")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    rows = [{"kind": "train", "step": 10 * n, "loss": 30.0 / n} for n in range(1, 31)]
    rows += [{"kind": "validation", "step": 100 * n, "PQ": 0.1 * n, "AP": 0.08 * n, "per_class": {}} for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_losses_and_figures_are_drawn(run, tmp_path):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    assert training_curves.main([str(run), "--out", str(first)]) == 0
    assert training_curves.main([str(run), "--out", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    for words in ("tiny: loss, all predictions", "validation", ">PQ<", ">AP<"):
        # text is drawn as glyphs, with the words in a comment before them
        assert words.strip("><") in text
    assert "mIoU" not in text


def test_the_running_median_forgets_single_values():
    values = [1.0] * 20
    values[7] = 100.0
    assert np.array_equal(training_curves.running_median(values), np.ones(20))
    assert training_curves.running_median([3.0]).tolist() == [3.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "expected the folder of a training run"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "expected logged steps, got none"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, tmp_path, capsys, change, message):
    change(run)
    assert training_curves.main([str(run), "--out", str(tmp_path / "a.svg")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_kind_of_picture_is_refused(run, tmp_path, capsys):
    assert training_curves.main([str(run), "--out", str(tmp_path / "a.gif")]) == 2
    assert ".svg or .png" in capsys.readouterr().err
