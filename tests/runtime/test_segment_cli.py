"""`python runtime/segment.py`: what it writes and prints, and that a mistake is one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.runtime import segment as cli
from mask2edge.runtime.spec import EngineSpec

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path, picture):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture)
    cv2.imwrite(str(folder / "b.png"), cv2.resize(picture, (150, 100), interpolation=cv2.INTER_NEAREST))
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_panoptic_files(make_engine, photos, tmp_path, capsys):
    out = tmp_path / "out"
    code, stdout, _ = run(capsys, make_engine(), photos, "--out", out)
    assert code == 0
    assert files(out) == ["overlays/a.jpg", "overlays/b.jpg", "panoptic.json", "panoptic/a.png", "panoptic/b.png"]
    assert "150x100  3 segments" in stdout
    assert f"wrote {out / 'panoptic.json'}" in stdout
    data = json.loads((out / "panoptic.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["a.png", "b.png"]
    assert {category["id"]: category.get("isthing") for category in data["categories"]} == {
        100: 1,
        101: 1,
        102: 0,
        103: 0,
    }
    for annotation, image in zip(data["annotations"], data["images"], strict=True):
        assert annotation["image_id"] == image["id"]
        png = cv2.imread(str(out / "panoptic" / annotation["file_name"])).astype(np.int64)
        ids = png[:, :, 2] + 256 * png[:, :, 1] + 256**2 * png[:, :, 0]  # cv2 gives BGR
        assert ids.shape == (image["height"], image["width"])
        assert [segment["category_id"] for segment in annotation["segments_info"]] == [100, 102, 103]
        for segment in annotation["segments_info"]:
            assert np.count_nonzero(ids == segment["id"]) == segment["area"]


def test_semantic_and_instance_files(make_engine, photos, tmp_path, capsys):
    engine, out = make_engine(), tmp_path / "out"
    assert run(capsys, engine, photos / "a.png", "--task", "semantic", "--out", out / "s")[0] == 0
    assert files(out / "s") == ["overlays/a.jpg", "semantic.json", "semantic/a.png"]
    labels = cv2.imread(str(out / "s/semantic/a.png"), cv2.IMREAD_UNCHANGED)
    assert (labels[:, :40] == 0).all()
    assert labels[10, 80] == 2
    assert labels[60, 80] == 3
    assert json.loads((out / "s/semantic.json").read_text())["classes"][2]["name"] == "sky"

    cv2.imwrite(str(photos / "000000000139.png"), cv2.imread(str(photos / "a.png")))
    assert run(capsys, engine, photos / "000000000139.png", "--task", "instance", "--out", out / "i")[0] == 0
    assert files(out / "i") == ["images.json", "instances.json", "overlays/000000000139.jpg"]
    coco = pytest.importorskip("pycocotools.mask")
    best = json.loads((out / "i/instances.json").read_text())[0]
    assert (best["image_id"], best["category_id"]) == (139, 100)
    assert coco.decode(best["segmentation"])[:, :40].all()
    assert coco.toBbox(best["segmentation"]).tolist() == best["bbox"]


def test_json_is_one_object_and_nothing_else(make_engine, photos, tmp_path, capsys):
    (photos / "c.jpg").write_text("no picture")
    code, stdout, stderr = run(capsys, make_engine(), photos, "--json", "--out", tmp_path / "out", "--threads", 1)
    report = json.loads(stdout)
    assert code == 2
    assert [image["image_id"] for image in report["images"]] == [1, 2]
    assert all(
        image[key] >= 0 for image in report["images"] for key in ("preprocess_ms", "network_ms", "postprocess_ms")
    )
    assert report["failed"] == [
        {"source": str(photos / "c.jpg"), "error": stderr.splitlines()[0].removeprefix("error: ")}
    ]


def test_one_bad_file_stops_nothing_and_leaves_nothing(make_engine, photos, tmp_path, capsys):
    (photos / "aa.jpg").write_bytes(b"")
    out = tmp_path / "out"
    code, stdout, stderr = run(capsys, make_engine(), photos, "--out", out, "--task", "semantic")
    assert code == 2
    assert stderr.splitlines()[0].startswith(f"error: {photos / 'aa.jpg'}: expected an image")
    assert stderr.splitlines()[1:] == ["1 of 3 images failed"]
    assert len(stdout.splitlines()) == 3
    assert files(out) == ["overlays/a.jpg", "overlays/b.jpg", "semantic.json", "semantic/a.png", "semantic/b.png"]

    nothing = tmp_path / "nothing"
    code, _, stderr = run(capsys, make_engine(name="other"), photos / "aa.jpg", "--out", nothing)
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert not nothing.exists()


def test_names_that_are_alike_are_told_apart(make_engine, photos, tmp_path, capsys):
    more = tmp_path / "more"
    more.mkdir()
    cv2.imwrite(str(more / "a.bmp"), np.zeros((20, 30, 3), np.uint8))
    out = tmp_path / "out"
    assert run(capsys, make_engine(), photos, more, "--out", out)[0] == 0
    assert files(out / "overlays") == ["a-2.jpg", "a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ENGINE", "missing.jpg"], "missing.jpg: no such file or folder"),
        (["ENGINE", "*.gif"], "a pattern that matches images"),
        (["ENGINE", "4242"], "4242: no such camera"),
        (["missing.engine", "PHOTOS"], "expected an engine folder with spec.json"),
        (["ENGINE", "PHOTOS", "--object-threshold", "1.5"], "object_threshold: expected a number from 0 to 1, got 1.5"),
        (["ENGINE", "PHOTOS", "--threads", "-2"], "threads: expected 0"),
        (["SEMANTIC", "PHOTOS", "--task", "panoptic"], "does not say which of its classes are things"),
        (["SEMANTIC", "PHOTOS", "--task", "instance"], "was made for semantic"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(make_engine, toy_spec, photos, tmp_path, capsys, arguments, message):
    names = {"ENGINE": str(make_engine()), "PHOTOS": str(photos)}
    if "SEMANTIC" in arguments:
        names["SEMANTIC"] = str(make_engine(model=toy_spec(("semantic",), things=False), name="semantic"))
    out = tmp_path / "out"
    code, stdout, stderr = run(capsys, *[names.get(argument, argument) for argument in arguments], "--out", out)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not out.exists()


def test_the_script_runs_from_the_root_and_its_help_has_an_example(make_engine, photos, tmp_path):
    folder = make_engine()
    assert EngineSpec.load(folder).backend == "onnxruntime"
    script = [sys.executable, "runtime/segment.py"]
    done = subprocess.run(
        [*script, folder, photos, "--out", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    (photos / "a.png").write_bytes(b"")
    done = subprocess.run([*script, folder, photos / "a.png"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].endswith("got an empty file")
    assert "Traceback" not in done.stderr
    done = subprocess.run([*script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "example: python runtime/segment.py" in done.stdout
