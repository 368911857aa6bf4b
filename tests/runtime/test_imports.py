"""What the rooms may import, which Python they need, and that no file takes another module's name."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("train", "export", "trt_plugins", "runtime", "benchmarks")
FORBIDDEN = ("torch", "onnx", "onnxscript", "mask2edge.train", "mask2edge.export", "mask2edge.benchmarks")
# What the project's extras and its optional backends import, whether or not this machine has them.
THIRD_PARTY = {
    "cuda", "cv2", "cython", "fastapi", "flask", "h11", "httpx", "hypothesis", "matplotlib", "numpy", "onnx",
    "onnxruntime", "onnxscript", "openvino", "PIL", "playwright", "polygraphy", "prometheus_client", "pycocotools",
    "pycuda", "pydantic", "pytest", "ray", "safetensors", "scipy", "sklearn", "starlette", "tensorrt", "timm", "tomli",
    "torch", "torchvision", "tqdm", "transformers", "uvicorn", "yaml",
}  # fmt: skip


def modules(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)


REPORT = f"; import sys; print(sorted(name for name in {FORBIDDEN!r} if name in sys.modules))"


@pytest.mark.parametrize("module", ["", *(f".{path.stem}" for path in modules("runtime") if path.stem != "__init__")])
def test_runtime_imports_no_other_room(module):
    # Triton's own module is in its server alone.
    server = "import sys; sys.modules['triton_python_backend_utils'] = sys; " if module.startswith(".triton") else ""
    done = run_python(f"{server}import mask2edge.runtime{module}" + REPORT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_runtime_imports_nothing_more_while_it_works(make_engine):
    pytest.importorskip("onnxruntime")
    code = (
        "import sys, numpy; from mask2edge.runtime import Segmenter; segmenter = Segmenter.load(sys.argv[1]); "
        "image = numpy.zeros((40, 50, 3), numpy.uint8); "
        "[segmenter(image, task).draw(image) for task in ('panoptic', 'instance', 'semantic')]"
    )
    done = run_python(code + REPORT, make_engine())
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_spec_and_command_line_imports_are_the_standard_librarys():
    done = run_python("import mask2edge.runtime.spec, sys; print([n for n in ('numpy', 'cv2') if n in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_imports_and_syntax_need_no_more_than_python_3_10():
    pytest.importorskip("vermin")
    rooms = [str(ROOT / room) for room in ROOMS if modules(room)]
    done = run_python("from vermin import main; main()", "-t=3.10-", "--no-tips", "--violations", *rooms)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_checks_for_python_3_10():
    assert 'target-version = "py310"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_no_file_takes_the_name_of_a_module_that_something_imports():
    # `python export/to_onnx.py` puts export/ first on the path: an export/onnx.py would be everyone's `import onnx`.
    installed = {name for name in importlib.metadata.packages_distributions() if not name.startswith("_")}
    taken = set(sys.stdlib_module_names) | THIRD_PARTY | (installed - {"mask2edge", *ROOMS, "tests", "docs"})
    named = [path for room in ROOMS for path in modules(room) if path.stem != "__init__"]
    packages = [path.parent for room in ROOMS for path in modules(room) if path.stem == "__init__"]
    clashes = [str(path.relative_to(ROOT)) for path in named + packages if path.stem in taken]
    assert not clashes, f"rename {', '.join(clashes)}"
