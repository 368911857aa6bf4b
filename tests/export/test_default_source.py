"""Which shipped file the bare `build_engine.py` takes: what this machine can turn into an engine."""

from pathlib import Path

import pytest

from mask2edge.export import build_engine


@pytest.mark.parametrize(
    ("has_torch", "has_library", "name"),
    [
        (True, True, "street-lite.safetensors"),
        (True, False, "street-lite.safetensors"),
        (False, True, "street-lite.onnx"),
        (False, False, "street-lite-standard.onnx"),
    ],
)
def test_the_default_is_what_the_machine_can_build(monkeypatch, has_torch, has_library, name):
    monkeypatch.setattr(build_engine.importlib.util, "find_spec", lambda module: object() if has_torch else None)
    monkeypatch.setattr(build_engine, "onnxruntime_ops_library", lambda: Path("ops.so") if has_library else None)
    monkeypatch.setattr(build_engine, "why_missing", lambda: "no compiler")
    source = build_engine.default_source()
    assert source.name == name
    assert source.is_file()
