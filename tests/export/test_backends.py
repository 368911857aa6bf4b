"""Which backend is chosen, and the reason that is given for it."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from mask2edge.export import backends
from mask2edge.runtime.command_line import InputError


class Driver:
    def __init__(self, init=0, count=1):
        self.init, self.count = init, count

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0


FULL = SimpleNamespace(Builder=object, OnnxParser=object, __version__="10.3.0")


@pytest.mark.parametrize(
    ("driver", "package", "reason"),
    [
        (None, FULL, "no CUDA driver was found"),
        (Driver(init=100), FULL, "does not work (error 100)"),
        (Driver(count=0), FULL, "sees no GPU"),
        (Driver(), None, "tensorrt is not installed"),
        (Driver(), SimpleNamespace(__version__="10.3.0"), "a runtime alone"),
        (Driver(), "raise OSError('libnvinfer.so.10: no such file')", "cannot be imported (libnvinfer.so.10"),
    ],
)
def test_auto_says_why(monkeypatch, tmp_path, driver, package, reason):
    def load(name):
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    if isinstance(package, str):
        (tmp_path / "tensorrt.py").write_text(package)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "tensorrt", package)
    backend, why = backends.choose_backend("auto")
    assert backend == "onnxruntime"
    assert reason in why
    with pytest.raises(InputError, match="--backend tensorrt"):
        backends.choose_backend("tensorrt")


def test_auto_wants_the_plugins_as_well(monkeypatch, tmp_path):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setitem(sys.modules, "tensorrt", FULL)
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", "/nowhere.so")
    backend, why = backends.choose_backend("auto")
    assert backend == "onnxruntime"
    assert "MASK2EDGE_PLUGIN_LIBRARY names /nowhere.so" in why
    assert backends.choose_backend("tensorrt") == ("tensorrt", "as asked")  # standard ops need none
    (tmp_path / "plugins.so").touch()
    monkeypatch.setenv("MASK2EDGE_PLUGIN_LIBRARY", str(tmp_path / "plugins.so"))
    assert backends.choose_backend("auto")[0] == "tensorrt"
