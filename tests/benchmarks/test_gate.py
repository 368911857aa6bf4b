"""gate.py: whatever becomes worse than noise fails, in every kind of result; what is better, or a time, does not."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask2edge.benchmarks import accuracy, gate
from mask2edge.benchmarks.result_kinds import KINDS, Figure, kind_of
from mask2edge.runtime.command_line import sha256_of

RESULTS = Path(gate.__file__).parent / "results"
FILES = sorted(path.stem for path in RESULTS.glob("*.csv") if path.stem != "published")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(capsys, *arguments):
    """Exit code, lines of stdout, stderr."""
    code = gate.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def peers(**changes):
    row = {
        "date": "2026-11-25", "commit": "a", "machine": "x86_64", "cpu": "C", "threads": "2", "versions": "numpy=2",
        "backbone": "r50", "size": "512x512", "contender": "mask2edge-fp32", "runs": "12", "network_p50_ms": "600.0",
        "ratio": "0.5", "ratio_of_fastest": "0.5", "peak_memory_mb": "600",
    }  # fmt: skip
    return row | changes


@pytest.mark.parametrize("name", FILES)
def test_a_file_passes_beside_itself(name, capsys):
    path = RESULTS / f"{name}.csv"
    code, out, err = run(capsys, path, path)
    assert (code, err) == (0, "")
    assert out[-1].endswith("0 worse, 0 missing, 0 new")


@pytest.mark.parametrize("name", FILES)
def test_every_bounded_figure_of_every_file_has_a_mutant_that_fails(name, tmp_path, capsys):
    """And the mutant's opposite passes: better is not worse."""
    rows = read(RESULTS / f"{name}.csv")
    kind = kind_of(rows[0], name)
    last = {kind.key(row): number for number, row in enumerate(rows)}
    for column, figure in kind.figures.items():
        number = next((n for n in last.values() if rows[n].get(column) and kind.bound_rows(rows[n])), None)
        if number is None:
            continue
        value = float(rows[number][column])
        step = 1.01 * figure.bound * (abs(value) if figure.relative else 1) + 1e-6 * max(1, abs(value))
        for sign, expected in ((1, 1), (-1, 0)):
            changed = value + sign * step * (1 if figure.better == "lower" else -1)
            mutant = [row | {column: changed} if n == number else row for n, row in enumerate(rows)]
            code, out, _ = run(capsys, RESULTS / f"{name}.csv", write(tmp_path / "new.csv", mutant))
            assert code == expected, (column, out)
            assert any(line.startswith("WORSE") and f"{column} " in line for line in out) == bool(expected)


def test_the_file_of_the_shipped_models_is_bounded_in_what_it_says_of_them():
    """Else the mutants above would prove nothing of it."""
    assert set(KINDS["gate-base"].figures) == {"label_agreement", "multiply_adds", "nodes", "bytes"}
    assert all(float(row["label_agreement"]) > 0.98 for row in read(RESULTS / "gate-base.csv"))
    assert {row["precision"] for row in read(RESULTS / "gate-base.csv")} == {"fp32", "fp16", "int8"}
    assert all(0.5 < float(row["mIoU"]) < 1 for row in read(RESULTS / "gate-accuracy.csv"))


@pytest.mark.parametrize("column", ["nodes", "multiply_adds"])
def test_one_more_of_what_is_counted_fails(column, tmp_path, capsys):
    """A fusion that is lost in one place alone is less than any share of the graph that could be called noise."""
    rows = read(RESULTS / "gate-base.csv")
    mutant = [row | {column: str(int(row[column]) + (n == 1))} for n, row in enumerate(rows)]
    code, out, _ = run(capsys, RESULTS / "gate-base.csv", write(tmp_path / "new.csv", mutant))
    assert code == 1
    assert out[0].startswith(f"WORSE    fp16: {column} {rows[1][column]} -> ")


def test_the_figures_of_another_cpu_are_held_against_the_base(tmp_path, capsys):
    rows = read(RESULTS / "gate-base.csv")
    for change, expected in ((0.0, 0), (-0.1, 1)):
        elsewhere = [
            row | {"cpu": "another", "label_agreement": float(row["label_agreement"]) + change} for row in rows
        ]
        code, out, _ = run(capsys, RESULTS / "gate-base.csv", write(tmp_path / "new.csv", elsewhere))
        assert (code, out[-1]) == (expected, f"3 rows compared: {3 * expected} worse, 0 missing, 0 new")


positive = st.floats(1e-3, 1e3)


@settings(deadline=None)
@given(positive, positive, st.sampled_from(["lower", "higher"]), st.booleans())
def test_a_loss_is_positive_where_the_figure_moved_the_wrong_way(base, new, better, relative):
    loss = Figure(better, 0.03, relative).loss(base, new)
    wrong = new > base if better == "lower" else new < base
    assert (loss > 0) == wrong
    assert loss * (base if relative else 1) == pytest.approx((new - base) * (1 if better == "lower" else -1), abs=1e-9)


@settings(deadline=None)
@given(st.floats(0, 0.2), positive)
def test_the_bound_decides(rise, base):
    verdict = gate.compare(KINDS["peers"], [peers(ratio=str(base))], [peers(ratio=str(base * (1 + rise)))])
    if abs(rise - 0.03) > 1e-6:
        assert verdict.passed == (rise < 0.03)


def test_a_loss_from_zero_is_a_loss():
    figure = Figure("lower", 0.03, relative=True)
    assert (figure.loss(0, 0), figure.loss(0, 1), figure.loss(0, -1)) == (0, float("inf"), -float("inf"))


CASES = [  # BASE, NEW, exit code, the first word and what is in the line
    ([peers()], [peers(ratio="0.52")], 1, ("WORSE", "ratio 0.5 -> 0.52, 4.00% worse; noise is up to 3.00%")),
    ([peers()], [peers(ratio="0.51")], 0, None),
    ([peers()], [peers(network_p50_ms="9000", peak_memory_mb="9000")], 0, None),  # times and memory are the machine's
    ([peers()], [peers(date="2027-01-01", commit="b", versions="numpy=3", runs="3")], 0, None),
    ([peers()], [peers(ratio="nan")], 1, ("WORSE", "nan")),
    ([peers()], [peers(ratio="")], 1, ("WORSE", "ratio 0.5 -> not measured")),
    ([peers(ratio="")], [peers(ratio="0.9")], 0, None),  # nothing was known
    ([peers(contender="openvino-fp32")], [peers(contender="openvino-fp32", ratio="0.9")], 0, None),  # a peer's own
    ([peers(), peers(size="800x1216")], [peers()], 1, ("MISSING", "800x1216")),
    ([peers()], [peers(cpu="D")], 1, ("MISSING", "C")),
    ([peers()], [peers(), peers(contender="mask2edge-int8")], 0, ("new", "mask2edge-int8")),
    ([peers(ratio="0.9"), peers()], [peers(ratio="0.6"), peers(ratio="0.5")], 0, None),  # the newest counts
    ([peers()], [peers(ratio="0.5"), peers(ratio="0.6")], 1, ("WORSE", "0.6")),
]


@pytest.mark.parametrize(("base", "new", "code", "line"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_what_counts(base, new, code, line, tmp_path, capsys):
    found, out, err = run(capsys, write(tmp_path / "base.csv", base), write(tmp_path / "new.csv", new))
    assert (found, err) == (code, "")
    if line:
        assert any(text.startswith(line[0]) and line[1] in text for text in out), out
    else:
        assert len(out) == 1


@pytest.mark.parametrize(
    ("tolerances", "code"),
    [(["0.1"], 0), (["ratio=0.1"], 0), (["0.01"], 1), (["0.1", "ratio=0.01"], 1), (["0.01", "ratio=0.1"], 0)],
)
def test_tolerances(tolerances, code, tmp_path, capsys):
    base, new = write(tmp_path / "base.csv", [peers()]), write(tmp_path / "new.csv", [peers(ratio="0.52")])
    flags = [part for text in tolerances for part in ("--tolerance", text)]
    assert run(capsys, base, new, *flags)[0] == code


def test_json_of_the_verdict(tmp_path, capsys):
    base, new = write(tmp_path / "base.csv", [peers()]), write(tmp_path / "new.csv", [peers(ratio="0.6")])
    assert gate.main([str(base), str(new), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["compared"], found["missing"], found["new"]) == (False, 1, [], [])
    assert "ratio 0.5 -> 0.6" in found["worse"][0]


def peers_object(ratio):
    """What compare_peers.py prints, as far as its rows need it."""
    return {
        "ratios": {"mask2edge-fp32": ratio}, "ratio_quartiles": {"mask2edge-fp32": [ratio, ratio]},
        "ratios_of_fastest": {"mask2edge-fp32": ratio}, "backbone": "r50", "size": "512x512", "threads": 2, "runs": 12,
        "network_ms": {"mask2edge-fp32": {"p50": 600.0}}, "peak_memory_mb": {},
        "agreement": {"mask2edge-fp32": {"class_logits": 0.0, "mask_logits": 0.0}},
        "machine": {"machine": "x86_64", "cpu": "C", "versions": {}, "instruction_set": []},
    }  # fmt: skip


def latency_object(ratio):
    return {"engine": "a/b.engine", "size": "512x512", "batch": 1, "ratio": ratio, "total_ms": {"p50": 3.0}}


def engines_object(ratio):
    """Two in turns: the second has its ratio to the first."""
    second = latency_object(None) | {"engine": "b.engine", "ratio_to_first": {"network": ratio, "total": ratio}}
    return {"engines": [latency_object(None), second]}


def accuracy_object(figure):
    of = {"artifact": "a/b.engine", "data": "../c", "task": "semantic", "split": "val", "images": 3}
    return of | {"metrics": {"mIoU": 1 - figure, "pixel_accuracy": 1 - figure / 2}, "per_class": {}}


def instances_object(figure):
    of = {"artifact": "a/b.engine", "data": "../c", "task": "instance", "split": "val", "images": 3, "detections": 300}
    others = {"AP75": 0.9 - figure, "AP_small": 0.8 - figure, "AR": 1 - figure, "boundary_AP75": 0.7 - figure}
    return of | {"metrics": {"AP": 1 - figure, "AP50": 0.9} | others, "per_class": {}}


@pytest.mark.parametrize(
    "printed",
    [
        peers_object, latency_object, engines_object, accuracy_object, instances_object,
        lambda ratio: {"engines": [latency_object(ratio)]}, lambda ratio: {"rows": [peers(ratio=ratio)]},
        lambda ratio: [peers(ratio=ratio)],
    ],
)  # fmt: skip
def test_what_benchmarks_print_can_be_compared(printed, tmp_path, capsys):
    base, better, worse = (tmp_path / name for name in ("base.json", "better.json", "worse.json"))
    for path, figure in ((base, 0.5), (better, 0.4), (worse, 0.6)):
        path.write_text(json.dumps(printed(figure)))
    assert run(capsys, base, better)[0] == 0
    assert run(capsys, base, worse)[0] == 1


def test_a_scenarios_output_is_a_result_without_bounds(tmp_path, capsys):
    """LoadGen's figures are times, and belong to a machine."""
    printed = {
        "engine": "a/b.engine", "precision": "fp32", "ops": "custom", "sha256": "0", "size": "64x96",
        "scenario": "Offline", "measures": "end-to-end", "verdict": "VALID", "result": {"samples_per_s": 9.0},
        "latency_ms": None, "queries": 1, "samples": 3, "settings": {}, "loadgen": "6", "device": None,
        "calibration": None, "threads": 2, "machine": {"machine": "x86_64", "cpu": "C", "cores": 8, "versions": {}},
        "task": "semantic",
    }  # fmt: skip
    for name, rate in (("base.json", 9.0), ("new.json", 3.0)):
        (tmp_path / name).write_text(json.dumps(printed | {"result": {"samples_per_s": rate}}))
    code, out, err = run(capsys, tmp_path / "base.json", tmp_path / "new.json")
    assert (code, out, err) == (0, ["1 rows compared: 0 worse, 0 missing, 0 new"], "")


BAD = [
    ("nothing.csv", None, "nothing.csv: expected a result file, CSV or JSON"),
    ("empty.csv", "", "expected rows, got none"),
    ("header.csv", "contender,ratio\n", "expected rows, got none"),
    ("other.csv", "a,b\n1,2\n", "expected the columns of one of accuracy, latency"),
    ("short.csv", "contender,ratio,ratio_of_fastest\na,0.5\n", "line 2: expected 3 cells"),
    ("damaged.json", '{"rows": [', "expected JSON"),
    ("numbers.json", "[1, 2]", "expected an object for each row"),
    ("engine.json", '{"engine": "a.engine"}', "or what a benchmark prints with --json, got an object of another form"),
    ("rows.json", '{"rows": 3}', "got an object of another form"),
    ("ratios.json", '{"ratios": {"a": 1}}', "got an object of another form"),
    ("metrics.json", '{"metrics": {}}', "got an object of another form"),
    ("kernels.csv", "op,case,fused_p50_ms,ratio\na,b,1,2\n", "two files of the same benchmark, got peers and kernels"),
    ("few.csv", "contender,ratio,ratio_of_fastest\na,0.5,0.5\n", "NEW has no column 'machine'"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD, ids=[case[0] for case in BAD])
def test_bad_files_are_one_line_and_exit_2(name, text, message, tmp_path, capsys):
    new = tmp_path / name
    if text is not None:
        new.write_text(text)
    code, out, err = run(capsys, write(tmp_path / "base.csv", [peers()]), new)
    assert (code, out) == (2, [])
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"ratio": "fast"}, [], "ratio: expected a number, got 'fast'"),
        ({}, ["--tolerance", "much"], "--tolerance: expected NUMBER or COLUMN=NUMBER, from 0, got 'much'"),
        ({}, ["--tolerance=-1"], "from 0, got '-1'"),
        ({}, ["--tolerance", "nan"], "from 0, got 'nan'"),
        ({}, ["--tolerance", "mIoU=0.1"], "--tolerance: expected one of ratio, got 'mIoU'"),
    ],
)
def test_bad_figures_and_tolerances(changes, flags, message, tmp_path, capsys):
    base, new = write(tmp_path / "base.csv", [peers()]), write(tmp_path / "new.csv", [peers(**changes)])
    code, _, err = run(capsys, base, new, *flags)
    assert code == 2
    assert message in err


def test_an_engine_that_has_become_worse_is_noticed(color_engine, color_data, tmp_path, capsys):
    """From pixels to the verdict: the same name and data, another network."""
    import onnx
    from onnx import numpy_helper

    stripes = np.repeat(np.arange(3), 32)[None].repeat(64, 0)
    engine, data = color_engine(), color_data({"val": [(stripes, stripes)]})
    for name in ("base.csv", "new.csv"):
        flags = ["--task", "semantic", "--data", str(data), "--save-to", str(tmp_path / name)]
        assert accuracy.main([str(engine), *flags]) == 0
        network = onnx.load(engine / "model.onnx")
        logits = next(value for value in network.graph.initializer if value.name == "classes")
        swapped = numpy_helper.to_array(logits)[:, [0, 2, 1]]  # green is said to be blue
        logits.CopyFrom(numpy_helper.from_array(swapped, "classes"))
        spec = json.loads((engine / "spec.json").read_text())
        onnx.save(network, engine / "model.onnx")
        spec["files"]["model.onnx"] = sha256_of(engine / "model.onnx")
        (engine / "spec.json").write_text(json.dumps(spec))
    capsys.readouterr()
    code, out, _ = run(capsys, tmp_path / "base.csv", tmp_path / "new.csv")
    assert code == 1
    assert "mIoU 1.000000 -> 0.333333" in out[0]
