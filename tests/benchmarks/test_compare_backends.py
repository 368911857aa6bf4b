"""compare_backends.py as a command, on a tiny random network; test_backend_stages.py has what goes wrong on purpose."""

import json
import shutil
from contextlib import contextmanager

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("torch")
pytest.importorskip("polygraphy")

from tiny_checkpoint import INNER, SIZE

from mask2edge.benchmarks import compare_backends
from mask2edge.benchmarks.backends import sources
from mask2edge.benchmarks.backends.comparison import Reference
from mask2edge.benchmarks.backends.differences import TOLERANCES
from mask2edge.benchmarks.backends.stages import title
from mask2edge.export import build_engine
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.spec import Profile
from mask2edge.train.checkpoint import load_model
from mask2edge.train.torch_session import torch_segmenter
from mask2edge.trt_plugins import onnxruntime_ops_library

NO_GPU = "TensorRT needs an NVIDIA GPU, and there is none in this test"
RESULTS = ["class_logits", "mask_logits", "label_map"]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint, loaded):
    model, checkpoint = loaded
    image = cv2.imread(str(tiny_checkpoint.with_name("street.png")))
    return Reference(model, checkpoint.spec, Profile.fixed(*SIZE), image)


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    path = tiny_onnx.with_suffix(".engine")
    assert build_engine.main([str(tiny_onnx), "--backend", "onnxruntime", "--out", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch):
    monkeypatch.setattr(sources, "why_no_tensorrt", lambda: NO_GPU)


def strict_json(text):
    """Raises ValueError for Infinity and NaN, which are no JSON."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def run(capsys, source, *arguments):
    assert (
        compare_backends.main([str(source), "--image", str(source.with_name("street.png")), *arguments, "--json"]) == 0
    )
    return strict_json(capsys.readouterr().out)


def test_backends_agree_and_what_is_absent_is_said(tiny_checkpoint, capsys):
    report = run(capsys, tiny_checkpoint)
    backends = {backend["backend"]: backend for backend in report["backends"]}
    assert list(backends) == ["onnxruntime-standard", "onnxruntime-custom", "tensorrt"]
    assert backends["tensorrt"]["not_run"] == NO_GPU
    ran = ["onnxruntime-standard"]
    if onnxruntime_ops_library() is None:
        assert "not_run" in backends["onnxruntime-custom"]
    else:
        ran.append("onnxruntime-custom")
    for name in ran:
        backend = backends[name]
        assert backend["first_divergence"] is None, backend["verdict"]
        assert [stage["stage"] for stage in backend["stages"]] == [*INNER, *RESULTS]
        assert backend["missing_stages"] == []
        assert backend["verdict"] == (
            "no stage diverges; no bit of a mask flipped; label map: 0 of 9600 pixels changed"
        )
        errors = [stage["relative_l2"] for stage in backend["stages"][:-1]]
        assert 0 < max(errors) < 1e-4  # other arithmetic, and not the reference twice
    assert (report["height"], report["width"], report["task"]) == (*SIZE, "semantic")


def test_bfloat16_runs_where_it_can(tiny_checkpoint, capsys):
    report = run(capsys, tiny_checkpoint, "--precision", "bf16")
    standard, custom, emulated, tensorrt = report["backends"]
    assert standard["not_run"] == custom["not_run"] == "ONNX Runtime has no bf16 on the CPU"
    assert tensorrt["not_run"] == NO_GPU
    assert emulated["backend"] == "tensorrt-emulated"
    assert [stage["stage"] for stage in emulated["stages"]] == [*INNER, *RESULTS]
    assert all(1e-3 < stage["relative_l2"] < 1e-1 for stage in emulated["stages"][:4])  # rounded to 8 bits


def test_the_table_ends_in_one_line_for_each_backend(tiny_onnx, capsys):
    arguments = [str(tiny_onnx), "--image", str(tiny_onnx.with_name("street.png")), "--tolerance", "0"]
    assert compare_backends.main(arguments) == 0
    out = capsys.readouterr().out
    *_, onnxruntime, tensorrt = out.strip().splitlines()
    # The first rounding is a divergence to a tolerance of zero.
    assert onnxruntime.startswith("onnxruntime: first divergence: backbone's res2, stride 4, relative L2 ")
    assert onnxruntime.endswith("; no bit of a mask flipped; label map: 0 of 9600 pixels changed")
    assert tensorrt == f"tensorrt: not run: {NO_GPU}"
    assert f"  {title('decoder.1.mask_logits')}" in out
    assert out.count("<- first divergence") == 1


def test_an_onnx_file_shows_its_stages_and_an_engine_its_results(tiny_checkpoint, tiny_onnx, engine, capsys):
    of_file = run(capsys, tiny_onnx)
    assert [backend["backend"] for backend in of_file["backends"]] == ["onnxruntime", "tensorrt"]
    assert [stage["stage"] for stage in of_file["backends"][0]["stages"]] == [*INNER, *RESULTS]
    of_engine = run(capsys, engine)
    (backend,) = of_engine["backends"]
    assert backend["backend"] == "onnxruntime-engine"
    assert [stage["stage"] for stage in backend["stages"]] == RESULTS
    assert backend["missing_stages"] == INNER
    assert "no inner stages" in backend["note"]
    for report in (of_file, of_engine):
        assert report["checkpoint"] == str(tiny_checkpoint)  # found by its sha256
        assert report["backends"][0]["first_divergence"] is None


@pytest.fixture(scope="module")
def other_classes(tiny_onnx):
    """The file with its checkpoint's checksum, and classes that are not the checkpoint's: red is said to be green."""
    graph = onnx.load(tiny_onnx)
    classes = next(node for node in graph.graph.node if "class_logits" in node.output)
    classes.output[0] = "as_it_was"
    order = numpy_helper.from_array(np.array([1, 0, 2, 3]), "order")
    graph.graph.initializer.append(order)
    graph.graph.node.append(onnx.helper.make_node("Gather", ["as_it_was", "order"], ["class_logits"], axis=2))
    path = tiny_onnx.with_name("other.onnx")
    onnx.save(graph, path)
    return path


EXACT = ["--tolerance", "0"]
EXITS = [  # which file, flags, exit code, how the line begins that says why
    ("tiny", ["--fail-on", "stages"], 0, None),
    ("tiny", ["--fail-on", "stages", *EXACT], 1, "DIVERGED onnxruntime: backbone's res2, stride 4, relative L2"),
    ("tiny", ["--fail-on", "stages", *EXACT, "--tolerance", "relative_l2=0.01"], 0, None),  # the last counts
    ("other", ["--fail-on", "results", "--tolerance", "9"], 1, "DIVERGED onnxruntime: label map, "),
    ("other", ["--fail-on", "pixels", "--tolerance", "relabelled=1"], 0, None),
]


@pytest.mark.parametrize(("which", "flags", "code", "line"), EXITS, ids=[str(i) for i in range(len(EXITS))])
def test_exit_codes(which, flags, code, line, tiny_onnx, other_classes, capsys):
    source = {"tiny": tiny_onnx, "other": other_classes}[which]
    assert compare_backends.main([str(source), "--image", str(source.with_name("street.png")), *flags]) == code
    *_, last_but_one, last = capsys.readouterr().out.splitlines()
    assert last == f"1 backends compared by their {flags[1]}: {code} diverged, 0 failed, 1 not there"
    assert last_but_one.startswith(line or "tensorrt: not run: ")


@pytest.mark.parametrize(
    ("flags", "passed", "failures"),
    [
        ([], None, None),
        (["--fail-on", "pixels", *EXACT], True, {}),
        (["--fail-on", "results", *EXACT], False, ["onnxruntime"]),
    ],
)
def test_json_says_what_fails(flags, passed, failures, tiny_onnx, capsys):
    arguments = [str(tiny_onnx), "--image", str(tiny_onnx.with_name("street.png")), *flags, "--json"]
    assert compare_backends.main(arguments) == (1 if passed is False else 0)
    report = strict_json(capsys.readouterr().out)
    assert report["passed"] is passed
    assert report["failures"] == failures if not failures else list(report["failures"]) == failures


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--fail-on", "pixels"], 1)])
def test_a_backend_that_is_there_and_cannot_run_fails(flags, code, tiny_onnx, monkeypatch, capsys):
    @contextmanager
    def broken(source, given):
        raise InputError("TensorRT could not build the engine (out of memory)")
        yield

    monkeypatch.setattr(sources, "why_no_tensorrt", lambda: "")
    monkeypatch.setattr(sources, "why_no_plugins", lambda: "")
    monkeypatch.setattr(sources, "_tensorrt_engine", broken)
    assert compare_backends.main([str(tiny_onnx), "--image", str(tiny_onnx.with_name("street.png")), *flags]) == code
    out = capsys.readouterr().out
    assert ("FAILED   tensorrt: TensorRT could not build the engine (out of memory)\n" in out) == bool(flags)
    assert ("1 backends compared by their pixels: 0 diverged, 1 failed, 0 not there\n" in out) == bool(flags)


def test_an_engine_that_was_changed_is_not_compared(tiny_checkpoint, engine, tmp_path, capsys):
    """A file that is not the one that spec.json names could be anybody's."""
    broken = shutil.copytree(engine, tmp_path / "broken.engine")
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes() + b"\0")
    image = engine.with_name("street.png")
    arguments = [str(broken), "--checkpoint", str(tiny_checkpoint), "--image", str(image)]
    assert compare_backends.main(arguments) == 2
    assert "expected a backend that can run it here, got none: onnxruntime-engine" in capsys.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
def test_tensorrt_where_it_is(tiny_checkpoint, loaded, reference, monkeypatch, fails):
    """Its part played by PyTorch: opened, run, closed, and a build that fails is one line of the report."""
    model, checkpoint = loaded
    events = []

    @contextmanager
    def engine(source, flags):
        events.append(("open", list(flags)))
        if fails:
            raise InputError("TensorRT could not build the engine (out of memory)")
        yield torch_segmenter(model, checkpoint.spec, Profile.fixed(*SIZE))
        events.append("close")

    monkeypatch.setattr(sources, "why_no_tensorrt", lambda: "")
    monkeypatch.setattr(sources, "why_no_plugins", lambda: "")
    monkeypatch.setattr(sources, "_tensorrt_engine", engine)
    *_, backend = sources.backends_of_checkpoint(tiny_checkpoint, "fp16", ["--size", "64x96"], reference.pixels.shape)
    outcome = reference.compare(backend, TOLERANCES["fp16"])
    opened = ("open", ["--fp16", "--size", "64x96"])
    if fails:
        assert outcome.not_run == "TensorRT could not build the engine (out of memory)"
        assert events == [opened]
    else:
        assert [one.stage for one in outcome.differences] == RESULTS
        assert [(one.relative_l2 or 0, one.flips or 0) for one in outcome.differences] == [(0, 0)] * 3
        assert "no inner stages" in backend.note
        assert events == [opened, "close"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors"], "no such file; expected a checkpoint"),
        (["none.engine"], "expected a .safetensors file, an .onnx file or an engine folder; found nothing"),
        (
            ["street.png"],
            "an .onnx file or an engine folder; found a file of another kind",
        ),
        (["tiny.safetensors", "--size", "60x96"], "--size: expected multiples of 32, got 60x96"),
        (["tiny.safetensors", "--image", "none.png"], "none.png"),
        (["tiny.safetensors", "--task", "panoptic"], "task panoptic"),
        (["tiny.safetensors", "--checkpoint", "tiny.safetensors"], "expected together with an engine or an ONNX file"),
        (["tiny.safetensors", "--precision", "int8"], "--int8: expected --calibration DIR, got none"),
        (["tiny.safetensors", "--calibration", "."], "--calibration: expected together with --precision int8, got"),
        (["tiny.onnx", "--precision", "fp16"], "--precision: expected together with a checkpoint, got"),
        (["tiny.onnx", "--size", "64x96"], "--size: expected together with a checkpoint, got"),
        (["tiny.onnx", "--checkpoint", "other.safetensors"], "expected the file that"),
        (["alone/tiny.onnx"], "beside it or in models/, found none; name it with --checkpoint FILE"),
    ],
)
def test_bad_input_is_one_line(tiny_onnx, monkeypatch, capsys, arguments, message):
    folder = tiny_onnx.parent
    (folder / "other.safetensors").write_bytes(b"another")
    (folder / "alone").mkdir(exist_ok=True)
    (folder / "alone/tiny.onnx").write_bytes(tiny_onnx.read_bytes())
    monkeypatch.chdir(folder)
    given_image = [] if "--image" in arguments else ["--image", "street.png"]
    assert compare_backends.main([*arguments, *given_image]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        *((["--tolerance", text], f"expected a number from 0, got '{text}'") for text in ("-1", "nan", "inf", "much")),
        (["--tolerance", "flipped=-1"], "expected a number from 0, got '-1'"),
        (["--tolerance", "flipped="], "expected a number from 0, got ''"),
        (["--tolerance", "flips=1"], "expected one of relative_l2, flipped, relabelled, got 'flips'"),
        (["--tolerance", "=1"], "expected one of relative_l2, flipped, relabelled, got ''"),
        (["--fail-on", "anything"], "invalid choice: 'anything'"),
    ],
)
def test_bad_tolerances_and_choices(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        compare_backends.main(["x.safetensors", *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(compare_backends, "NEEDED", ("torch", "polygraphy_of_another_name"))
    assert compare_backends.main(["x.safetensors"]) == 2
    err = capsys.readouterr().err
    assert "polygraphy_of_another_name" in err
    assert "pip install 'mask2edge[bench]'" in err
