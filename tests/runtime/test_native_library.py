"""Finding the library of pre- and post-processing, refusing another one, and doing without."""

import os

import numpy as np
import pytest

from mask2edge import trt_plugins
from mask2edge.runtime import native_library, native_postprocess
from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.native_postprocess import NativePostprocess
from mask2edge.runtime.segmenter import TASKS, Segmenter

LIBRARY = trt_plugins.cpu_library()
if LIBRARY is None and os.environ.get("MASK2EDGE_REQUIRE_OPS") != "1":
    pytest.skip(trt_plugins.why_no_cpu_library(), allow_module_level=True)


def test_without_a_library_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv(trt_plugins.CPU_LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(trt_plugins, "_installed_cpu_library", lambda: tmp_path / trt_plugins.CPU_LIBRARY_NAME)
    assert trt_plugins.cpu_library() is None
    assert "g++" in (why := trt_plugins.why_no_cpu_library())
    assert "\n" not in why
    monkeypatch.setenv(trt_plugins.CPU_LIBRARY_VARIABLE, str(LIBRARY))
    assert trt_plugins.cpu_library() == LIBRARY
    assert trt_plugins.why_no_cpu_library() == ""


def test_another_library_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "libmask2edge_cpu.so"
    file.write_bytes(b"no library")
    with pytest.raises(InputError, match=r"expected mask2edge's library.*install mask2edge again"):
        NativePostprocess(file)
    with pytest.raises(InputError, match="expected one of portable"):
        NativePostprocess(LIBRARY, instruction_set="mmx")
    monkeypatch.setattr(native_library, "CPU_INTERFACE", 2)
    with pytest.raises(InputError, match="expected interface 2, got 1: "):
        NativePostprocess(LIBRARY)
    monkeypatch.setattr(native_library, "CPU_INTERFACE", 1)
    monkeypatch.setattr(native_library, "expected_layout", lambda: [40])
    with pytest.raises(InputError, match="with other structures"):
        NativePostprocess(LIBRARY)


def test_a_segmenter_does_without_the_library(make_engine, picture, monkeypatch):
    with Segmenter.load(make_engine(), threads=1) as segmenter:
        native = {task: segmenter(picture, task) for task in TASKS}
    monkeypatch.setenv(trt_plugins.CPU_LIBRARY_VARIABLE, "/nowhere")
    monkeypatch.setattr(native_postprocess, "segmentation", None)  # it would be missed
    assert trt_plugins.why_no_cpu_library().startswith("MASK2EDGE_CPU_LIBRARY names /nowhere")
    with Segmenter.load(make_engine(name="other"), threads=1) as segmenter:
        for task in TASKS:
            np.testing.assert_array_equal(segmenter(picture, task).label_map, native[task].label_map)
