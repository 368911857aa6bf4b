"""From an engine folder and an image to the right masks; every broken engine gives one clear line."""

import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2edge.runtime import Segmenter
from mask2edge.runtime.command_line import InputError, sha256_of
from mask2edge.runtime.spec import EngineSpec, Profile

pytest.importorskip("onnxruntime")


def test_panoptic_finds_the_rectangles(make_engine, picture):
    result = Segmenter.load(make_engine())(picture)
    assert result.task == "panoptic"
    assert [(s.id, s.label, s.is_thing) for s in result.segments] == [
        (1, "ball", True),
        (2, "sky", False),
        (3, "snow", False),
    ]
    assert result.label_map[32, 10] == 1
    assert result.label_map[10, 80] == 2
    assert result.label_map[60, 80] == 3
    for segment, area in zip(result.segments, (3072, 1536, 1536), strict=True):
        assert segment.area == pytest.approx(area, rel=0.12)  # the soft borders of a quarter-size mask belong to nobody
        assert segment.score > 0.99


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.7])
@pytest.mark.parametrize(
    "profile",
    [
        Profile.fixed(64, 96),
        Profile.fixed(96, 96),
        Profile.fixed(32, 128),
        Profile((1, 32, 32), (1, 64, 96), (1, 96, 96)),
    ],
    ids=["exact", "tall", "wide", "dynamic"],
)
def test_results_are_in_the_images_coordinates(make_engine, picture, profile, scale):
    image = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    result = Segmenter.load(make_engine(profile))(image, task="semantic")
    assert result.label_map.shape == image.shape[:2]
    expected = np.where(image[:, :, 0] == 0, 0, np.where(image[:, :, 1] == 0, 2, 3))
    assert np.mean(result.label_map == expected) > 0.93
    # Away from the borders, by more than what a coarse mask may be off, there is no error at all.
    away = cv2.erode((expected == 0).astype(np.uint8), np.ones((1, int(12 * scale)), np.uint8)) > 0
    assert (result.label_map[away] == 0).all()


def test_instances_are_things_and_lie_by_score(make_engine, picture):
    result = Segmenter.load(make_engine())(picture, task="instance")
    best = result.segments[-1]
    assert (best.label, best.id) == ("ball", len(result.segments))
    assert all(segment.is_thing for segment in result.segments)
    assert best.score == pytest.approx(1, abs=0.02)
    assert np.mean(best.mask[:, :44]) > 0.99


def test_a_stream_has_the_same_masks_of_threads_that_yield_their_cores(make_engine, picture):
    spinning = "session.intra_op.allow_spinning"
    engine = make_engine()
    alone, streaming = Segmenter.load(engine), Segmenter.load(engine, streaming=True)
    assert streaming.session._session.get_session_options().get_session_config_entry(spinning) == "0"
    with pytest.raises(RuntimeError, match=spinning):  # not set
        alone.session._session.get_session_options().get_session_config_entry(spinning)
    assert (streaming(picture).label_map == alone(picture).label_map).all()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_lists_are_batches_whatever_the_engine_takes(make_engine, picture, batch):
    dynamic = make_engine(Profile((1, 32, 32), (1, 64, 96), (batch, 128, 128)), name="dynamic")
    fixed = make_engine(Profile.fixed(64, 96, batch), name="fixed")
    images = [picture, picture[:, ::-1].copy(), picture[:40, :60].copy(), picture, np.zeros((1, 1, 3), np.uint8)]
    for folder in (dynamic, fixed):
        segmenter = Segmenter.load(folder, threads=1)
        together = segmenter(images, task="semantic")
        alone = [segmenter(image, task="semantic") for image in images]
        assert len(together) == 5
        for one, other, image in zip(together, alone, images, strict=True):
            assert one.size == image.shape[:2]
            assert np.mean(one.label_map == other.label_map) > 0.99
    assert segmenter([], task="semantic") == []


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000), (3, 2000)])
def test_extreme_sizes_give_right_results(make_engine, size):
    image = np.full((*size, 3), (0, 0, 255), np.uint8)
    for name, profile in (("dynamic", None), ("fixed", Profile.fixed(64, 96))):
        segmenter = Segmenter.load(make_engine(profile, name=name))
        result = segmenter(image, "semantic")
        assert [(s.label, s.area, s.box) for s in result.segments] == [
            ("ball", size[0] * size[1], (0, 0, size[1], size[0]))
        ]
        # One pixel beside padding leaves the toy unsure, so other tasks may find nothing.
        for task in ("panoptic", "instance"):
            assert segmenter(image, task).size == size


def test_thresholds_are_the_callers_or_the_specs(make_engine, picture):
    folder = make_engine()
    assert Segmenter.load(folder).spec.model.postprocessing.object_threshold == 0.8
    strict = Segmenter.load(folder, object_threshold=1.0, overlap_threshold=0.5)
    assert strict.spec.model.postprocessing.overlap_threshold == 0.5
    assert strict(picture).segments == ()
    for wrong in (-0.1, 1.5, "half", True, float("nan")):
        with pytest.raises(InputError, match="object_threshold: expected a number from 0 to 1"):
            Segmenter.load(folder, object_threshold=wrong)


def test_the_most_instances_of_an_image_are_the_callers_or_the_specs(make_engine, picture):
    folder = make_engine()
    assert Segmenter.load(folder).spec.model.postprocessing.instance_top_k == 100
    one = Segmenter.load(folder, instance_top_k=1)(picture, task="instance").segments
    every = Segmenter.load(folder, instance_top_k=10_000)(picture, task="instance").segments
    assert len(one) == 1
    assert one[0].score == every[-1].score
    with pytest.raises(InputError, match="instance_top_k: expected 1 or more, got 0"):
        Segmenter.load(folder, instance_top_k=0)


@pytest.mark.parametrize(
    ("tasks", "things", "task", "outcome"),
    [
        (("panoptic", "instance", "semantic"), True, None, "panoptic"),
        (("semantic",), False, None, "semantic"),
        (("instance", "semantic"), True, None, "instance"),
        (("semantic",), False, "panoptic", InputError("does not say which of its classes are things")),
        (("panoptic", "semantic"), False, "panoptic", InputError("does not say which of its classes are things")),
        (("panoptic", "semantic"), False, "semantic", "semantic"),
        (("semantic",), True, "instance", InputError("was made for semantic")),
        (("semantic",), True, "depth", InputError("expected one of panoptic, instance, semantic")),
    ],
)
def test_tasks(make_engine, toy_spec, picture, tasks, things, task, outcome):
    segmenter = Segmenter.load(make_engine(model=toy_spec(tasks, things)))
    if isinstance(outcome, str):
        assert segmenter(picture, task).task == outcome
        return
    with pytest.raises(InputError, match=str(outcome)):
        segmenter(picture, task)


def test_several_tasks_of_one_pass_are_those_of_calls(make_engine, picture, monkeypatch):
    segmenter = Segmenter.load(make_engine())
    tasks = ("semantic", "panoptic", "instance")
    expected = {task: segmenter(picture, task) for task in tasks}
    passes, network = [], segmenter.session.run
    monkeypatch.setattr(segmenter.session, "run", lambda pixels: passes.append(1) or network(pixels))
    found = segmenter.for_tasks(picture, tasks)
    assert (list(found), len(passes)) == (list(tasks), 1)
    for task, result in found.items():
        assert result.task == task
        np.testing.assert_array_equal(result.label_map, expected[task].label_map)
        assert [s.score for s in result.segments] == [s.score for s in expected[task].segments]
    with pytest.raises(InputError, match="expected one of panoptic, instance, semantic"):
        segmenter.for_tasks(picture, ["semantic", "depth"])
    with pytest.raises(InputError, match="image"):
        segmenter.for_tasks(picture[0], tasks)


def test_what_is_no_image_is_refused(make_engine, picture):
    segmenter = Segmenter.load(make_engine())
    for wrong in ("street.jpg", None, picture[:, :, 0], [picture, picture.astype(np.float32)]):
        with pytest.raises(InputError, match="image: expected a uint8 array"):
            segmenter(wrong)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 3, 64, 96), np.float64), "got float64"),
        (np.zeros((3, 64, 96), np.float32), r"float32 \[1\.\.4, 3, 32\.\.128, 32\.\.128\], got float32 \[3, 64, 96\]"),
        (np.zeros((1, 4, 64, 96), np.float32), r"got float32 \[1, 4, 64, 96\]"),
        (np.zeros((1, 3, 64, 100), np.float32), "multiples of 32"),
        (np.zeros((1, 3, 64, 160), np.float32), r"got \[1, 3, 64, 160\]"),
        (np.zeros((5, 3, 64, 64), np.float32), r"got \[5, 3, 64, 64\]"),
        ([1.0], "got list"),
    ],
)
def test_the_session_checks_pixels(make_engine, pixels, message):
    session = Segmenter.load(make_engine()).session
    with pytest.raises(InputError, match=message):
        session.run(pixels)


def test_the_session_gives_float32_arrays(make_engine):
    outputs = Segmenter.load(make_engine()).session.run(np.zeros((2, 3, 64, 96), np.float32)[:, :, ::1])
    assert {name: (value.shape, value.dtype) for name, value in outputs.items()} == {
        "class_logits": ((2, 6, 5), np.float32),
        "mask_logits": ((2, 6, 16, 24), np.float32),
    }


def rewrite(folder: Path, **changes: object) -> None:
    data = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**data, **changes}))


def test_broken_engines_are_one_line(make_engine, tmp_path):
    def tampered(folder):
        data = bytearray((folder / "model.onnx").read_bytes())
        data[200] ^= 1
        (folder / "model.onnx").write_bytes(data)

    def truncated(folder):
        (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:300])

    def corrupt(folder):  # with a checksum that fits
        (folder / "model.onnx").write_bytes(b"no model" * 100)
        rewrite(folder, files={"model.onnx": sha256_of(folder / "model.onnx")})

    def relabel(folder, **fields):
        model = json.loads((folder / "spec.json").read_text())["model"]
        model["labels"][0] |= fields
        rewrite(folder, model=model)

    def reprocess(folder, **fields):
        model = json.loads((folder / "spec.json").read_text())["model"]
        model["preprocessing"] |= fields
        rewrite(folder, model=model)

    cases = [
        (tampered, "sha256 differs"),
        (truncated, "sha256 differs"),
        (corrupt, "ONNX Runtime cannot load it"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx: missing"),
        (lambda folder: (folder / "spec.json").unlink(), "expected an engine folder with spec.json"),
        (lambda folder: (folder / "spec.json").write_text("{"), "damaged JSON"),
        (lambda folder: (folder / "spec.json").write_bytes(b"\xff\xfe\x00"), "damaged JSON"),
        (lambda folder: (folder / "spec.json").write_text("[" * 100_000), "damaged JSON"),
        (lambda folder: rewrite(folder, schema=99), "schema 99 is newer"),
        (lambda folder: rewrite(folder, model=None), "model description"),
        (lambda folder: rewrite(folder, surprise=1), "a field is missing or unknown"),
        (lambda folder: rewrite(folder, files={}), "expected model.onnx among the files"),
        (lambda folder: rewrite(folder, files={"../model.onnx": "0", "model.onnx": "0"}), "plain file names"),
        (lambda folder: rewrite(folder, files={"model.onnx": "0", "x" * 5000: "0"}), "sha256 differs|missing"),
        (lambda folder: rewrite(folder, ops=[]), "ops is of the wrong kind"),
        (lambda folder: relabel(folder, is_thing=["panoptic"]), r"is_thing is \['panoptic'\]"),
        (lambda folder: relabel(folder, is_thing=1), "is_thing is 1"),
        (lambda folder: relabel(folder, color=[0, 256, 0]), "a colour has 256"),
        (lambda folder: relabel(folder, name="\ud800"), "surrogates not allowed"),
        (lambda folder: reprocess(folder, shortest_edge=1.5), "expected 0 < shortest_edge"),
        (lambda folder: reprocess(folder, longest_edge=1 << 60), "expected 0 < shortest_edge"),
        (lambda folder: reprocess(folder, mean=[0, float("nan"), 0]), "mean or std is nan"),
        (
            lambda folder: rewrite(folder, profile={size: [1, 1 << 20, 1 << 20] for size in ("min", "opt", "max")}),
            "expected at most 268435456 pixels a batch",
        ),
        (lambda folder: rewrite(folder, backend="tensorrt"), "expected model.plan among the files"),
        (lambda folder: rewrite(folder, backend="magic"), "expected backend onnxruntime or tensorrt, got 'magic'"),
        (lambda folder: rewrite(folder, ops="custom", op_library_version=99), "made for version 99 of the native ops"),
    ]
    for index, (damage, message) in enumerate(cases):
        folder = make_engine(name=f"case{index}")
        damage(folder)
        with pytest.raises(InputError, match=message) as caught:
            Segmenter.load(folder)
        assert "\n" not in str(caught.value)
    for missing in (tmp_path / "missing.engine", tmp_path / "case0.engine" / "model.onnx"):
        with pytest.raises(InputError, match="expected an engine folder"):
            Segmenter.load(missing)


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 0, [1], True, 1.5, float("inf")], ids=repr)
def test_no_field_of_the_spec_can_cause_a_traceback(make_engine, picture, value):
    folder = make_engine()
    sound = (folder / "spec.json").read_text()

    def paths(node, path=()):
        yield path
        items = node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ()
        for key, child in items:
            yield from paths(child, (*path, key))

    for path in list(paths(json.loads(sound)))[1:]:
        data = json.loads(sound)
        node = data
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        (folder / "spec.json").write_text(json.dumps(data))
        try:
            Segmenter.load(folder, threads=1)(picture).draw(picture)
        except InputError:
            continue  # anything else that is raised fails the test


def test_a_model_that_contradicts_its_labels_is_refused(make_engine, toy_spec, picture):
    model = toy_spec()
    folder = make_engine(model=dataclasses.replace(model, labels=model.labels[:3]))
    with pytest.raises(InputError, match="expected 3 classes and no object"):
        Segmenter.load(folder)(picture)


def test_a_machine_without_onnxruntime_or_native_ops_says_so(make_engine, monkeypatch):
    plain, custom = make_engine(name="plain"), make_engine(name="custom", ops="custom")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(InputError, match="pip install 'onnxruntime"):
            Segmenter.load(plain)
    trt_plugins = pytest.importorskip("mask2edge.trt_plugins")
    monkeypatch.setattr(trt_plugins, "onnxruntime_ops_library", lambda: None)
    monkeypatch.setattr(trt_plugins, "why_missing", lambda: "no compiler; install g++")
    with pytest.raises(InputError, match=r"needs the native ops: no compiler; install g\+\+"):
        Segmenter.load(custom)
    library = custom / "model.onnx"
    monkeypatch.setattr(trt_plugins, "onnxruntime_ops_library", lambda: library)
    with pytest.raises(InputError, match="cannot load the native ops"):
        Segmenter.load(custom)


def test_threads(make_engine, picture):
    folder = make_engine()
    maps = [Segmenter.load(folder, threads=threads)(picture).label_map for threads in (None, 0, 1, 2)]
    for one in maps[1:]:
        np.testing.assert_array_equal(one, maps[0])
    with pytest.raises(InputError, match="threads: expected 0"):
        Segmenter.load(folder, threads=-1)


def test_loading_changes_nothing_in_the_folder(make_engine):
    folder = make_engine()
    before = {path.name: sha256_of(path) for path in folder.iterdir()}
    assert EngineSpec.load(folder) == Segmenter.load(folder).spec
    assert {path.name: sha256_of(path) for path in folder.iterdir()} == before


def test_other_thresholds_share_the_engine(make_engine, picture):
    segmenter = Segmenter.load(make_engine())
    nothing = segmenter.with_thresholds(object_threshold=1)
    assert nothing.session is segmenter.session
    assert nothing(picture).segments == ()
    assert len(segmenter(picture).segments) == 3  # unchanged
    assert nothing.with_thresholds(0.5)(picture).segments
    assert segmenter.with_thresholds() is segmenter
    with pytest.raises(InputError, match="overlap_threshold: expected a number from 0 to 1, got 2"):
        segmenter.with_thresholds(overlap_threshold=2)


@pytest.mark.parametrize("task", [None, "panoptic", "instance", "semantic"])
def test_a_timed_call_gives_the_same_and_its_steps(make_engine, picture, task):
    segmenter = Segmenter.load(make_engine())
    result, times = segmenter.timed(picture, task)
    expected = segmenter(picture, task)
    np.testing.assert_array_equal(result.label_map, expected.label_map)
    assert [segment.score for segment in result.segments] == [segment.score for segment in expected.segments]
    assert list(times) == ["preprocess_ms", "network_ms", "postprocess_ms"]
    assert min(times.values()) >= 0
