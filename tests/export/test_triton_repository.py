"""What export/triton_repository.py writes, read by Triton's own message types; tests/runtime has the real server."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from mask2edge.export.triton_config import Word, text
from mask2edge.export.triton_repository import main
from mask2edge.runtime.command_line import sha256_of
from mask2edge.runtime.spec import EngineSpec, Label, ModelSpec, Postprocessing, Preprocessing, Profile

DYNAMIC = Profile((1, 32, 32), (2, 64, 96), (4, 256, 256))
MODEL = ModelSpec(
    "tiny",
    tuple(Label(index, f"class {index}", None, (0, 0, 0), index) for index in range(5)),
    7,
    Preprocessing((127.5,) * 3, (127.5,) * 3),
    Postprocessing(),
    ("semantic", "instance"),
)


@pytest.fixture
def engine(tmp_path):
    """engine(profile, **fields of EngineSpec): a folder that is no engine but looks like one; nothing here runs it."""

    def make(profile=DYNAMIC, backend="onnxruntime", name="tiny-fp32", **fields):
        folder = tmp_path / "engines" / f"{name}.engine"
        folder.mkdir(parents=True)
        file = folder / ("model.plan" if backend == "tensorrt" else "model.onnx")
        file.write_bytes(b"weights")
        files = {file.name: sha256_of(file)}
        spec = EngineSpec(MODEL, profile, backend, "1", "fp32", "standard", 1, files)
        dataclasses.replace(spec, **fields).save(folder)
        return folder

    return make


@pytest.fixture
def parsed():
    protobuf = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="pip install 'tritonclient[grpc]'")
    from google.protobuf import text_format

    return lambda folder: text_format.Parse((folder / "config.pbtxt").read_text(), protobuf.ModelConfig())


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def tensors(values):
    return {value.name: list(value.dims) for value in values}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_model_around_any_engine(engine, tmp_path, parsed, capsys):
    source, out = engine(), tmp_path / "repository"
    options = ("--max-batch", 3, "--max-delay-us", 500, "--max-queue", 9, "--instances", 2, "--json")
    assert main([str(word) for word in (source, "--out", out, *options)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "repository": str(out), "models": ["tiny-fp32"], "backend": "onnxruntime", "task": "semantic",
        "max_batch_size": 3,
    }  # fmt: skip
    folder = out / "tiny-fp32"
    assert names(out) == [
        f"tiny-fp32/{name}"
        for name in (
            "1/SHA256SUMS", "1/engine/model.onnx", "1/engine/spec.json", "1/model.py", "config.pbtxt", "warmup/image",
        )
    ]  # fmt: skip
    for line in (folder / "1" / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((folder / "1" / name).read_bytes()).hexdigest() == digest
    config = parsed(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny-fp32", "python", 3)
    assert tensors(config.input) == {"IMAGE": [1], "TASK": [1]}
    assert [one.optional for one in config.input] == [False, True]
    assert tensors(config.output) == {"LABEL_MAP": [-1, -1], "SEGMENTS": [1]}
    batching = config.dynamic_batching
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([2], 500)
    assert batching.default_queue_policy.max_queue_size == 9
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, group.KIND_CPU)
    assert config.version_policy.latest.num_versions == 1
    assert [one.batch_size for one in config.model_warmup] == [1, 3]
    assert config.parameters["task"].string_value == "semantic"


def test_the_ensemble_of_a_plan(engine, tmp_path, parsed, monkeypatch):
    library = tmp_path / "plugins.so"
    library.write_bytes(b"plugins")
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", str(library))
    source = engine(backend="tensorrt", ops="custom", plugin_sha256=sha256_of(library), sm=87)
    out = tmp_path / "repository"
    assert main([str(source), "--out", str(out), "--name", "m", "--task", "instance"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "m", "m_ensemble", "m_network", "m_postprocess", "m_preprocess",
    ]  # fmt: skip
    assert names(out / "m_network") == [
        "1/SHA256SUMS", "1/libmask2edge_tensorrt.so", "1/model.plan", "config.pbtxt",
    ]  # fmt: skip
    configs = {path.name: parsed(path) for path in out.iterdir()}
    assert all(config.name == name for name, config in configs.items())
    assert {config.max_batch_size for config in configs.values()} == {4}
    network = configs["m_network"]
    assert network.platform == "tensorrt_plan"
    assert network.instance_group[0].kind == network.instance_group[0].KIND_GPU
    assert tensors(network.input) == {"pixels": [3, -1, -1]}
    assert tensors(network.output) == {"class_logits": [7, 6], "mask_logits": [7, -1, -1]}
    ensemble = configs["m_ensemble"]
    assert ensemble.platform == "ensemble"
    known = {one.name: one for one in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:  # each tensor is made before it is used, and fits
        part = configs[step.model_name]
        for one in part.input:
            source = known[step.input_map[one.name]]
            assert (source.data_type, list(source.dims)) == (one.data_type, list(one.dims))
        known |= {step.output_map[one.name]: one for one in part.output}
    for one in ensemble.output:
        assert list(known[one.name].dims) == list(one.dims)
    assert {configs[f"m_{part}"].parameters["task"].string_value for part in ("preprocess", "postprocess")} == {
        "instance"
    }


def test_a_plan_of_a_fixed_batch_has_it_among_its_dimensions(engine, tmp_path, parsed):
    source = engine(Profile.fixed(64, 96), "tensorrt")
    assert main([str(source), "--out", str(tmp_path / "r"), "--name", "m"]) == 0
    network = parsed(tmp_path / "r" / "m_network")
    assert network.max_batch_size == 0
    assert tensors(network.input) == {"pixels": [1, 3, 64, 96]}
    assert tensors(network.output) == {"class_logits": [1, 7, 6], "mask_logits": [1, 7, 16, 24]}
    assert tensors(parsed(tmp_path / "r" / "m_ensemble").input) == {"IMAGE": [1, 1]}


def test_only_the_model_of_a_plan(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", str(tmp_path / "nothing.so"))
    source = engine(backend="tensorrt", ops="custom")
    assert main([str(source), "--out", str(tmp_path / "r"), "--name", "m", "--only-model"]) == 0
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["m"]


def test_beside_other_models_and_again(engine, tmp_path):
    out = tmp_path / "r"
    (out / "other").mkdir(parents=True)
    (out / "other" / "config.pbtxt").write_text("kept")
    source = engine()
    for task in ("semantic", "instance"):
        assert main([str(source), "--out", str(out), "--name", "m", "--task", task]) == 0
        assert f'"{task}"' in (out / "m" / "config.pbtxt").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["m", "other"]
    assert (out / "other" / "config.pbtxt").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{none}"], "expected an engine folder with spec.json"),
        (["{changed}"], "sha256 differs"),
        (["{engine}", "--name", "a/b"], "--name: expected letters, digits and _ . -, got 'a/b'"),
        (["{engine}", "--name", ""], None),
        (["{engine}", "--max-batch", "5"], "--max-batch: expected at most 4, the engine's largest batch, got 5"),
        (["{engine}", "--task", "panoptic"], "task panoptic: tiny does not say which of its classes are things"),
        (["{engine}", "--name", "taken"], "exists and is no model of Triton"),
        (["{plan}"], "the ensemble needs the plugin library"),
        (["{many}"], "the plan takes 2 to 4 images, and Triton's batches begin with one"),
        (["{engine}", "--out", "{file}"], "--out: expected a folder, got a file"),
    ],
)
def test_bad_input(engine, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", str(tmp_path / "nothing.so"))
    out = tmp_path / "out"
    (out / "taken").mkdir(parents=True)
    (out / "taken" / "notes.txt").touch()
    (tmp_path / "file").touch()

    def changed():
        folder = engine()
        (folder / "model.onnx").write_bytes(b"other")
        return folder

    made = {
        "{none}": lambda: tmp_path / "none.engine",
        "{changed}": changed,
        "{engine}": engine,
        "{plan}": lambda: engine(backend="tensorrt", ops="custom"),
        "{many}": lambda: engine(Profile((2, 64, 64), (2, 64, 64), (4, 64, 64)), "tensorrt"),
        "{file}": lambda: tmp_path / "file",
    }
    words = [made[word]() if word in made else word for word in arguments]
    words = words if "--out" in words else [*words, "--out", out]
    if message is None:  # an empty name is none
        assert main([str(word) for word in words]) == 0
        return
    assert message in refused(capsys, *words)
    assert names(out) == ["taken/notes.txt"]


@pytest.mark.parametrize("broken", ["copyfile", "sums"])
def test_nothing_is_left_of_a_write_that_fails(engine, tmp_path, monkeypatch, capsys, broken):
    """The last of the ensemble's models cannot be written: none of them is there."""
    from mask2edge.export import triton_repository

    source, calls = engine(backend="tensorrt"), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    name = {"copyfile": "shutil.copyfile", "sums": "_write_sums"}[broken]
    if broken == "copyfile":
        real = triton_repository.shutil.copyfile
        monkeypatch.setattr(triton_repository.shutil, "copyfile", lambda *a: (fail(*a), real(*a)))
    else:
        monkeypatch.setattr(triton_repository, name, fail)
    assert "could not be written (No space left on device" in refused(capsys, source, "--out", tmp_path / "r")
    assert not list((tmp_path / "r").iterdir())


def test_text_is_what_protobuf_reads(parsed, tmp_path):
    (tmp_path / "config.pbtxt").write_text(
        text(
            {
                "name": 'quotes " and \\ and\nlines',
                "max_batch_size": 3,
                "instance_group": [{"kind": Word("KIND_CPU"), "count": 2}, {"gpus": [0, 1]}],
                "parameters": [{"key": "k", "value": {"string_value": "v"}}],
            }
        )
    )
    config = parsed(tmp_path)
    assert config.name == 'quotes " and \\ and\nlines'
    assert [list(group.gpus) for group in config.instance_group] == [[], [0, 1]]
    assert config.parameters["k"].string_value == "v"


def test_imports(engine, tmp_path):
    """As on a device: neither torch nor onnx, no backend and no server."""
    code = (
        "import sys, json\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'google'): sys.modules[name] = None\n"
        "from mask2edge.export.triton_repository import main\n"
        f"assert main([{str(engine())!r}, '--out', 'r']) == 0\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('mask2edge.train')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
