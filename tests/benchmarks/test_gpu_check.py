"""The GPU check without a GPU: its steps over the pretended GPU of tests/runtime, its table, and what it says here.

The kernels that the steps launch are the real ones, compiled for the host (libmask2edge_simt.so).
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from cuda_doubles import CudaDouble, Machine
from simt_build import Unavailable, simt_library
from tensorrt_doubles import install, write_plan_engine

from mask2edge.benchmarks import gpu_check
from mask2edge.benchmarks.gpu import accuracy, engines, fusion, kernels, latency, layers, parity
from mask2edge.benchmarks.gpu.rows import FAILED, MEASURED, NOT_RUN, PASSED, Row, RowFile, read_rows
from mask2edge.benchmarks.kernel_cases import DeformableCase, MaskedCase
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.device_kernels import DeviceKernels
from mask2edge.runtime.device_memory import open_device


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return simt_library()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, library: Path) -> Iterator[Machine]:
    """A pretended GPU whose plugin library runs on the host; nothing may be left on it."""
    machine = Machine()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", CudaDouble(machine))
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", str(library))
    yield machine
    assert machine.leaks() == []
    assert machine.violations == []


def rows_of(path: Path) -> dict[str, Row]:
    return {row.what: row for row in read_rows(path)}


# ---- The table ------------------------------------------------------------------------------------------------------
def test_without_a_gpu_it_lists_its_steps_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    said = capsys.readouterr()
    for number, step in enumerate(gpu_check.STEPS, start=1):
        assert f"{number}. {step.module}" in said.out
        assert step.does in said.out
    assert said.err.startswith("error: gpu-check: it needs an NVIDIA GPU, and ")
    assert len(said.err.splitlines()) == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "cuda_obstacle", lambda: "")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert gpu_check.obstacle().startswith("the Python package tensorrt cannot be imported")


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Steps of three lines of Python each, in place of the real ones."""
    monkeypatch.setattr(gpu_check, "obstacle", lambda: "")
    monkeypatch.setattr(
        gpu_check, "STEPS", tuple(gpu_check.Step(name, "tests", 1) for name in ("good", "bad", "dies", "mute"))
    )
    row = '{"step": "%s", "what": "a|b", "value": "1", "verdict": "%s", "bound": "2"}'
    bodies = {
        "good": f"open(out + '/good.jsonl', 'w').write('''{row % ('good', PASSED)}\\n''')",
        "bad": f"open(out + '/bad.jsonl', 'w').write('''{row % ('bad', FAILED)}\\n'''); print('last words'); exit(3)",
        "dies": f"open(out + '/dies.jsonl', 'w').write('''{row % ('dies', PASSED)}\\n{{cut'''); os.abort()",
        "mute": "pass",
    }
    script = tmp_path / "steps.py"
    script.write_text(
        "import os, sys\nout, step = sys.argv[sys.argv.index('--out') + 1], sys.argv[sys.argv.index('--step') + 1]\n"
        + "\n".join(f"if step == {name!r}: {body}" for name, body in bodies.items())
    )
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    return tmp_path / "out"


def test_a_step_that_ends_badly_leaves_the_others_their_turn(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--out", str(ready)]) == 1
    rows = [Row(**row) for row in json.loads((ready / "report.json").read_text())["rows"]]
    assert [(row.step, row.verdict) for row in rows] == [
        ("good", PASSED), ("bad", FAILED), ("bad", FAILED), ("dies", PASSED), ("dies", FAILED), ("mute", FAILED),
    ]  # fmt: skip
    assert "exit code 3" in rows[2].value
    assert "last words" in rows[2].value
    assert "ended by signal 6" in rows[4].value
    assert "a\\|b" in (ready / "report.md").read_text()
    printed = capsys.readouterr().out
    assert "2 passed, 4 FAILED, 0 not run" in printed
    assert printed.strip().endswith("report.md")


def test_all_passed_is_exit_0(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "STEPS", gpu_check.STEPS[:1])
    assert gpu_check.main(["--out", str(ready)]) == 0


def test_a_step_that_hangs_is_given_up(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("step", timeout)

    monkeypatch.setattr(gpu_check.subprocess, "run", hang)
    ready.mkdir()
    (row,) = gpu_check.run_step(gpu_check.Step("good", "tests", 7), ready, None)
    assert row.verdict == FAILED
    assert "not done after 7 minutes" in row.value


def test_a_data_folder_that_is_not_there_is_refused(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--out", str(ready), "--data", "nowhere"]) == 2
    assert "--data: expected a folder, got nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "verdict"), [(1.0, PASSED), (2.0, PASSED), (2.1, FAILED), (float("nan"), FAILED)])
def test_a_bound(tmp_path: Path, value: float, verdict: str) -> None:
    with RowFile(tmp_path / "x.jsonl") as rows:
        rows.bounded("what", value, 2.0)
    assert rows_of(tmp_path / "x.jsonl")["what"].verdict == verdict


# ---- Kernels --------------------------------------------------------------------------------------------------------
SMALL_CASES = {
    "timed": DeformableCase(((5, 7), (3, 3)), heads=2, batch=2, queries=9, head_dim=16),
    "masked": MaskedCase(20, 6, 7, 0.3, heads=2, head_dim=32),
    "of the CPU alone": MaskedCase(3, 2, 2, 0.3, heads=1, head_dim=5),
    "none": DeformableCase(((3, 5),), heads=2, queries=0),
}


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CASES", SMALL_CASES)
    monkeypatch.setattr(kernels, "TIMED", {"timed": SMALL_CASES["timed"]})
    monkeypatch.setattr(kernels, "REPEAT", 2)


def test_kernels_pass_in_each_type(gpu: Machine, few_cases: None, tmp_path: Path) -> None:
    with RowFile(tmp_path / "kernels.jsonl") as rows:
        kernels.run(rows, tmp_path, None)
    found = rows_of(tmp_path / "kernels.jsonl")
    assert len(found) == 3 * 3 + 3  # cases x types, and three timings
    assert {row.verdict for row in found.values()} == {PASSED, MEASURED}, found
    (timing,) = [row for what, row in found.items() if "timed fp16, one launch" in what]
    assert "GB/s" in timing.value


def test_kernels_of_an_old_gpu_leave_bfloat16_out(gpu: Machine, few_cases: None, tmp_path: Path) -> None:
    gpu.sm = 75
    with RowFile(tmp_path / "kernels.jsonl") as rows:
        kernels.run(rows, tmp_path, None)
    assert not any("bf16" in what for what in rows_of(tmp_path / "kernels.jsonl"))


def test_a_wrong_kernel_fails(gpu: Machine, few_cases: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.LaunchedOps.run

    def slightly_wrong(*arguments: object) -> tuple[np.ndarray, float]:
        output, milliseconds = right(*arguments)
        return (output.astype(np.float32) + 0.05).astype(output.dtype), milliseconds

    monkeypatch.setattr(kernels.LaunchedOps, "run", slightly_wrong)
    with RowFile(tmp_path / "kernels.jsonl") as rows:
        kernels.run(rows, tmp_path, None)
    checked = [row for row in rows_of(tmp_path / "kernels.jsonl").values() if row.bound and " none " not in row.what]
    assert len(checked) == 6
    assert {row.verdict for row in checked} == {FAILED}


# ---- Fusion ---------------------------------------------------------------------------------------------------------
def small_logits(order: str) -> fusion.Logits:
    random = np.random.default_rng(3)
    full = fusion.made_up_logits(5, (30, 41), order)
    queries = random.permutation(100)[:12]
    mask_logits = np.ascontiguousarray(full.mask_logits[queries][:, ::16, ::16])  # [12, 13, 21]
    mask_logits = np.ascontiguousarray(mask_logits[:, :8, :12])
    return fusion.Logits("small", full.spec, full.class_logits[queries], mask_logits, (32, 48), (30, 41), (30, 41))


def test_fusion_agrees_with_the_cpu(
    gpu: Machine, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "REPEAT", 1)
    monkeypatch.setattr(fusion, "PADDED", (64, 96))
    with open_device() as device, RowFile(tmp_path / "fusion.jsonl") as rows:
        bench = fusion.FusionBench(DeviceKernels(library), device)
        bench.check(rows, small_logits("image"), "semantic")
        bench.check(rows, small_logits("padded"), "semantic")
        bench.check(rows, small_logits("image"), "panoptic")
        bench.check_preprocessing(rows, (50, 70))
    found = read_rows(tmp_path / "fusion.jsonl")
    assert len(found) == 3 * 3 + 2
    assert {row.verdict for row in found} == {PASSED, MEASURED}, found


# ---- Engines --------------------------------------------------------------------------------------------------------
class Commands:
    """subprocess.run for the steps that type commands: notes them, and writes what an engine build would."""

    def __init__(self, answers: dict[str, SimpleNamespace] | None = None) -> None:
        self.typed: list[list[str]] = []
        self.answers = answers or {}

    def __call__(self, command: list[str], **options: object) -> SimpleNamespace:
        self.typed.append(command[1:])
        for part, answer in self.answers.items():
            if part in " ".join(command):
                return answer
        if "--out" in command:
            folder = Path(command[command.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / "spec.json").write_text("{}")
        return SimpleNamespace(returncode=0, stdout="", stderr="")


def test_engines_are_built_with_the_commands_that_users_type(
    gpu: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = SimpleNamespace(returncode=2, stdout="", stderr="progress\nerror: --bf16: too hard\n")
    commands = Commands({f"{engines.SHIPPED}-bf16": broken})
    monkeypatch.setattr(engines.subprocess, "run", commands)
    monkeypatch.setattr(engines, "write_random_checkpoint", lambda path, preset: path.touch())
    with RowFile(tmp_path / "engines.jsonl") as rows:
        engines.run(rows, tmp_path, None)
    assert len(commands.typed) == 8
    from mask2edge.export.build_engine import parse

    for command in commands.typed:
        assert command[0] == "export/build_engine.py"
        arguments = parse(command[1:])  # SystemExit for a flag that the command does not have
        assert arguments.backend in ("tensorrt", "onnxruntime")
    found = rows_of(tmp_path / "engines.jsonl")
    assert found[f"{engines.SHIPPED} bf16"].verdict == FAILED
    assert "too hard" in found[f"{engines.SHIPPED} bf16"].value
    assert [engine.precision for engine in engines.built_engines(tmp_path, engines.SHIPPED)] == ["cpu", "fp32", "fp16"]
    assert [engine.precision for engine in engines.built_engines(tmp_path, engines.RANDOM)] == [
        "cpu", "fp32", "fp16", "bf16",
    ]  # fmt: skip


def make_engines(out: Path, *precisions: str) -> None:
    for model in (engines.SHIPPED, engines.RANDOM):
        for precision in precisions:
            folder = engines.engine_folder(out, model, precision)
            folder.mkdir(parents=True)
            (folder / "spec.json").write_text("{}")


@pytest.mark.parametrize(("found", "verdict"), [(0.7235, PASSED), (0.70, FAILED)])
def test_accuracy_is_compared_with_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: float, verdict: str
) -> None:
    make_engines(tmp_path, "cpu", "fp16")
    answers = {
        name: SimpleNamespace(returncode=0, stdout=json.dumps({"metrics": {"mIoU": value}}), stderr="")
        for name, value in (("-cpu.engine", 0.7244), ("-fp16.engine", found))
    }
    monkeypatch.setattr(accuracy.subprocess, "run", Commands(answers))
    with RowFile(tmp_path / "accuracy.jsonl") as rows:
        accuracy.run(rows, tmp_path, tmp_path)
    assert rows_of(tmp_path / "accuracy.jsonl")["street-lite fp16 mIoU, lost against the CPU"].verdict == verdict


def test_accuracy_without_data_is_not_run(tmp_path: Path) -> None:
    with RowFile(tmp_path / "accuracy.jsonl") as rows:
        accuracy.run(rows, tmp_path, None)
    (row,) = read_rows(tmp_path / "accuracy.jsonl")
    assert row.verdict == NOT_RUN


def test_latency_reads_what_latency_py_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_engines(tmp_path, "cpu", "fp32", "fp16")
    one = {f"{step}_ms": {"p50": 1.5} for step in ("preprocess", "network", "postprocess", "total")}
    one |= {"throughput": 600.0, "size": "384x480"}
    answer = SimpleNamespace(returncode=0, stdout=json.dumps({"engines": [one, one]}), stderr="")
    monkeypatch.setattr(latency.subprocess, "run", Commands({"latency.py": answer}))
    with RowFile(tmp_path / "latency.jsonl") as rows:
        latency.run(rows, tmp_path, None)
    found = rows_of(tmp_path / "latency.jsonl")
    assert len(found) == 4
    assert "1.50 ms p50" in found["street-lite fp16, 384x480"].value


def test_layers_are_listed_with_their_shares(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    color_engine: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = install(monkeypatch, Machine())
    folder = write_plan_engine(color_engine("plan"))
    layer = {"Name": "attention", "LayerType": "PluginV3", "PluginType": "MaskedAttention"}
    (folder / "layers.json").write_text(json.dumps({"Layers": [{"Name": "conv"}, layer], "mask2edge": []}))
    place = engines.engine_folder(tmp_path, engines.SHIPPED, "fp16")
    place.parent.mkdir()
    folder.rename(place)
    with RowFile(tmp_path / "layers.jsonl") as rows:
        layers.run(rows, tmp_path, None)
    found = rows_of(tmp_path / "layers.jsonl")
    assert found[engines.RANDOM].verdict == FAILED  # it has no engine
    assert found["street-lite fp16, 2 layers"].value == "1.00 ms: other 100.0%, ours 25.0%"
    assert found["street-lite fp16, conv"].value == "0.750 ms, 75.0%"
    assert "25.0%    0.250  -      ours  attention" in capsys.readouterr().out
    assert (machine.leaks(), machine.violations) == ([], [])


def test_parity_without_the_reference_fails(tmp_path: Path) -> None:
    make_engines(tmp_path, "fp16")
    with RowFile(tmp_path / "parity.jsonl") as rows:
        parity.run(rows, tmp_path, None)
    assert {row.verdict for row in read_rows(tmp_path / "parity.jsonl")} == {FAILED}


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, PASSED), (3.0, FAILED)])
def test_parity_compares_both_ways_through_polygraphy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    color_engine: Callable[..., Path],
    shift: float,
    verdict: str,
) -> None:
    machine = install(monkeypatch, Machine())
    picture = np.random.default_rng(0).integers(0, 2, (64, 96, 3), np.uint8) * np.uint8(255)
    monkeypatch.setattr(parity, "photograph", lambda segmenter: picture)
    for model in (engines.SHIPPED, engines.RANDOM):
        for precision in ("cpu", "fp16"):
            folder = color_engine(f"{model}-{precision}")
            if precision != "cpu":
                network = onnx.load(folder / "model.onnx")
                offset = next(tensor for tensor in network.graph.initializer if tensor.name == "offset")
                offset.CopyFrom(numpy_helper.from_array(np.float32(10 + shift), "offset"))
                onnx.save(network, folder / "model.onnx")
                write_plan_engine(folder)
            place = engines.engine_folder(tmp_path, model, precision)
            place.parent.mkdir(exist_ok=True)
            folder.rename(place)
    with RowFile(tmp_path / "parity.jsonl") as rows:
        parity.run(rows, tmp_path, None)
    found = read_rows(tmp_path / "parity.jsonl")
    assert len(found) == 2 * 4
    masks = [row for row in found if "mask_logits" in row.what]
    assert {row.verdict for row in masks} == {verdict}, found
    assert (machine.leaks(), machine.violations) == ([], [])


def test_a_library_without_the_functions_is_refused(gpu: Machine, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    subprocess.run(["cc", "-shared", "-o", str(other), "-x", "c", "/dev/null"], check=True)
    with open_device() as device, pytest.raises(InputError, match="expected mask2edge's plugin library"):
        kernels.LaunchedOps(other, device)
