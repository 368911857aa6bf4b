"""Everything about mask2edge that needs an NVIDIA GPU, in one go: builds, compares, measures, and ends in a table.

    make gpu-check                                      # or: python benchmarks/gpu_check.py
    make gpu-check DATA=../camvid                       # accuracy of the engines besides

Each step runs in a process of its own, so that a fault in one leaves the others their turn. Rows, logs, engines,
report.md and report.json go to artifacts/gpu-check/. Exit code 0: everything passed; 1: something failed; 2: no GPU, in
which case the steps are listed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mask2edge.benchmarks import machine
from mask2edge.benchmarks.gpu.rows import FAILED, NOT_RUN, PASSED, Row, RowFile, read_rows
from mask2edge.runtime.command_line import InputError, command, say, whole_file
from mask2edge.runtime.device_memory import cuda_obstacle

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("artifacts/gpu-check")
LIBRARY_LINK = "plugin-library"  # in the output folder, a link to what the step `plugins` built


@dataclass(frozen=True)
class Step:
    """`module` is of mask2edge.benchmarks.gpu and has run(rows: RowFile, out: Path, data: Path | None)."""

    module: str
    does: str
    minutes: int  # after which it is given up


STEPS = (
    Step("device", "name the GPU, its driver, CUDA and TensorRT", 2),
    Step("plugins", "compile the plugin library for this GPU and load it into TensorRT's registry", 15),
    Step("kernels", "run each plugin on a table of shapes in fp32, fp16 and bf16 against float64; bandwidth", 30),
    Step("fusion", "run preprocessing and SegmentFusion on the GPU against the CPU's, on real and made-up logits", 10),
    Step("engines", "build street-lite and a random R50 in fp32, fp16 and bf16", 90),
    Step("parity", "compare each engine with ONNX Runtime through Polygraphy, and their masks on a photograph", 20),
    Step("accuracy", "measure each street-lite engine's mIoU (with --data)", 30),
    Step("latency", "time each engine: network alone and end to end", 30),
    Step("layers", "list where each engine's time goes: its largest layers, and the share of our plugins", 15),
)


def obstacle() -> str:
    """ "" where the check can start, else one clause."""
    found = cuda_obstacle()
    if found:
        return f"it needs an NVIDIA GPU, and {found}"
    for package, advice in (("tensorrt", "JetPack and NVIDIA's installers bring it"), ("polygraphy", "pip install it")):
        try:
            importlib.import_module(package)
        except ImportError as error:
            return f"the Python package {package} cannot be imported ({error}); {advice}"
    return ""


def listing() -> Iterator[str]:
    yield "gpu-check would, on a machine with an NVIDIA GPU:"
    for number, step in enumerate(STEPS, start=1):
        yield f"  {number}. {step.module:<9} {step.does}"


def run_step(step: Step, out: Path, data: Path | None) -> list[Row]:
    """The step's rows; one more where it did not end as it should. Its output goes to out/<step>.log."""
    rows_path, log = out / f"{step.module}.jsonl", out / f"{step.module}.log"
    rows_path.unlink(missing_ok=True)
    arguments = [sys.executable, str(Path(__file__).resolve()), "--out", str(out), "--step", step.module]
    if data:
        arguments += ["--data", str(data)]
    # cmake is installed beside Python, which need not be on the PATH.
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = os.environ | {"PATH": beside}
    library = out / LIBRARY_LINK
    if library.exists():
        environment["MASK2EDGE_PLUGIN_LIBRARY"] = str(library.resolve())
    started = time.perf_counter()
    say(f"{step.module}: {step.does} …")
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(
                arguments, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=60 * step.minutes
            ).returncode
            problem = "" if code == 0 else f"exit code {code}" if code > 0 else f"ended by signal {-code}"
        except subprocess.TimeoutExpired:
            problem = f"not done after {step.minutes} minutes"
    rows = read_rows(rows_path)
    if problem:
        last = _last_line(log)
        rows.append(Row(step.module, "the step itself", f"{problem}; {log}: {last}", FAILED))
    elif not rows:
        rows.append(Row(step.module, "the step itself", "found nothing to say", FAILED))
    failed = sum(row.verdict == FAILED for row in rows)
    say(f"{step.module}: {len(rows)} rows, {failed} failed, {time.perf_counter() - started:.0f} s")
    return rows


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines for people."""
    width = max((len(row.what) for row in rows), default=0)
    step = ""
    for row in rows:
        if row.step != step:
            step = row.step
            yield step
        bound = f"  ({row.bound})" if row.bound else ""
        yield f"  {row.verdict:<9} {row.what:<{width}}  {row.value}{bound}"
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (PASSED, FAILED, NOT_RUN)}
    yield ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def write_report(out: Path, rows: Sequence[Row]) -> None:
    described = machine.describe() | {"commit": machine.commit(), "date": machine.today()}
    with whole_file(out / "report.json") as path:
        path.write_text(json.dumps({"machine": described, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    lines = [
        f"# GPU check, {described['date']}, commit {described['commit']}",
        "",
        machine.one_line(described),
        "",
        "| step | what | value | bound | verdict |",
        "| --- | --- | --- | --- | --- |",
        *("| {step} | {what} | {value} | {bound} | {verdict} |".format(**_escaped(row)) for row in rows),
    ]
    with whole_file(out / "report.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _escaped(row: Row) -> dict[str, str]:
    return {key: value.replace("|", "\\|") for key, value in asdict(row).items()}


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Builds, compares and measures everything that needs an NVIDIA GPU.",
        epilog="example: python benchmarks/gpu_check.py --data ../camvid",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    parser.add_argument("--data", type=Path, metavar="DIR", help="labelled images for street-lite (CamVid)")
    parser.add_argument("--step", choices=[step.module for step in STEPS], help="one step alone, in this process")
    arguments = parser.parse_args(argv)
    found = obstacle()
    if found:
        print("\n".join(listing()))
        raise InputError(f"gpu-check: {found}")
    data = arguments.data.resolve() if arguments.data else None
    if data and not data.is_dir():
        raise InputError(f"--data: expected a folder, got {arguments.data}, which is not there")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.step:
        module = importlib.import_module(f"mask2edge.benchmarks.gpu.{arguments.step}")
        with RowFile(out / f"{arguments.step}.jsonl") as rows:
            module.run(rows, out, data)
        return 0
    rows: list[Row] = []
    for step in STEPS:
        rows += run_step(step, out, data)
        write_report(out, rows)  # what is known so far, should the machine go down
    print("\n".join(table(rows)))
    print(out / "report.md")
    return 1 if any(row.verdict == FAILED for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
