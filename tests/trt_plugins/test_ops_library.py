"""Finding the native library, saying why there is none, and importing nothing on the way."""

import subprocess
import sys
from pathlib import Path

import pytest

from mask2edge import trt_plugins


def test_the_variable_names_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.touch()
    monkeypatch.setenv(trt_plugins.LIBRARY_VARIABLE, str(library))
    assert trt_plugins.onnxruntime_ops_library() == library.resolve()
    assert trt_plugins.why_missing() == ""


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(trt_plugins.LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert trt_plugins.onnxruntime_ops_library() is None
    assert trt_plugins.why_missing().startswith(f"{trt_plugins.LIBRARY_VARIABLE} names {tmp_path / 'none.so'}")


def test_without_a_library_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(trt_plugins.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(trt_plugins, "_installed_library", lambda: tmp_path / trt_plugins.LIBRARY_NAME)
    assert trt_plugins.onnxruntime_ops_library() is None
    why = trt_plugins.why_missing()
    assert "\n" not in why
    assert "g++" in why
    assert "ONNXRUNTIME_INCLUDE_DIR" in why


def test_only_the_standard_library_is_imported() -> None:
    program = (
        "import sys; before = set(sys.modules); import mask2edge.trt_plugins as t; t.onnxruntime_ops_library();"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names - {'mask2edge'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
