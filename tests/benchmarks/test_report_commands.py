"""The command beside a row is one that the script takes, and names what the row names."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from mask2edge.benchmarks.reporting.commands import SCRIPTS, command_of
from mask2edge.benchmarks.reporting.rows import Row, read_results

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
ROWS = read_results(RESULTS)


def flags_of(script, capsys):
    """What --help of the script lists."""
    module = importlib.import_module(f"mask2edge.benchmarks.{script}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    return set(re.findall(r"--[\w-]+", capsys.readouterr().out))


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"published"}))
def test_a_command_has_flags_that_its_script_has(name, capsys):
    commands = {command_of(row) for row in ROWS[name]}
    script = Path(shlex.split(next(iter(commands)))[1])
    assert (RESULTS.parents[1] / script).is_file()
    known = flags_of(script.stem, capsys)
    for command in commands:
        assert {word for word in shlex.split(command) if word.startswith("--")} <= known, command
        assert f"benchmarks/{script.name}" in command


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"published"}))
def test_a_command_names_what_the_row_does(name):
    for row in ROWS[name]:
        for column in ("backbone", "size", "threads", "runs", "images", "case", "targets"):
            if f"--{column} " in command_of(row):
                assert f"--{column} {row.get(column)}" in command_of(row)


def row(file, **cells):
    return Row(file, 2, cells)


CASES = [
    (row("latency", engine="a.engine fp32 custom", threads="2", runs="9"), "latency.py a.engine --threads 2 --runs 9"),
    (row("latency", engine="a.engine fp32 custom", threads="default", mode="in turns"), "latency.py a.engine --save"),
    (row("latency", engine="a.engine", mode="sustained 600 s", runs="9"), "latency.py a.engine --sustained 600 --save"),
    (row("latency", engine="a.engine", mode="cool 0.2 s", runs="9"), "latency.py a.engine --cool 0.2 --runs 9 --save"),
    (row("scenarios", engine="a.engine", scenario="Offline"), "latency.py a.engine --scenario Offline --save"),
    (
        row("pipeline", mode="stream", files="24", runs="3", torch_p50_ms="9"),
        "pipeline.py --stream --data DIR --runs 3",
    ),
    (
        row("pipeline", mode="stream", files="24", runs="3"),
        "pipeline.py --stream --data DIR --no-torch --runs 3 --save",
    ),
    (
        row(
            "ablations",
            config="nuclei-lite",
            data="tiles",
            common='data.crop=[64,64] tasks=["instance"]',
            steps="300",
            seed="2",
            row="fpn",
        ),
        "ablations.py --data tiles --config nuclei-lite --steps 300 --seeds 2 --rows fpn "
        "--set 'data.crop=[64,64]' 'tasks=[\"instance\"]'",
    ),
    (row("accuracy", task="semantic", split="val"), "accuracy.py ARTIFACT --task semantic --split val --data DIR"),
    (row("accuracy", task="semantic", command="python x.py"), "python x.py"),
]


@pytest.mark.parametrize(("given", "expected"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_commands(given, expected):
    assert expected in command_of(given)


def test_a_file_that_nobody_knows_has_none():
    assert command_of(row("published", peer="a")) == ""
    assert "published" not in SCRIPTS
