"""The plugin library in a real TensorRT: the registry of tensorrt-lean, which needs no GPU.

Each test is a process of its own, because a plugin that goes wrong takes the process with it.
"""

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mask2edge import trt_plugins

needs_lean = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_lean") is None, reason="tensorrt-lean is not installed"
)

PRELUDE = """
import numpy as np
import tensorrt_lean as trt
from mask2edge.trt_plugins import register_plugins

logger = trt.Logger(trt.Logger.WARNING)
registry = trt.get_plugin_registry()

def create(name, **attributes):
    fields = [
        trt.PluginField(key, np.array(value, np.int32, ndmin=1), trt.PluginFieldType.INT32)
        for key, value in attributes.items()
    ]
    creator = registry.get_creator(name, "1", "mask2edge")
    return creator.create_plugin("layer", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
"""


def run(program: str, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != trt_plugins.PLUGIN_LIBRARY_VARIABLE}
    if library is not None:
        environment[trt_plugins.PLUGIN_LIBRARY_VARIABLE] = str(library)
    command = [sys.executable, "-c", PRELUDE + program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def passes(program: str, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    result = run(program, library)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@needs_lean
def test_plugins_register_once(plugin_library: Path) -> None:
    program = """
from pathlib import Path
assert registry.get_creator("MaskedAttention", "1", "mask2edge") is None
first = register_plugins(trt)
assert register_plugins(trt) == register_plugins(trt, first) == first, first
mask2edge = [c for c in registry.all_creators if c.plugin_namespace == "mask2edge"]
assert sorted(c.name for c in mask2edge) == ["MaskedAttention", "MultiscaleDeformableAttention"], mask2edge
assert all(type(c).__name__ == "IPluginCreatorV3One" and c.plugin_version == "1" for c in mask2edge)
fields = {c.name: [(f.name, f.type) for f in c.field_names] for c in mask2edge}
int32 = trt.PluginFieldType.INT32
assert fields["MultiscaleDeformableAttention"] == [("num_heads", int32), ("num_points", int32)], fields
assert fields["MaskedAttention"] == [("num_heads", int32)], fields
"""
    result = passes(program, plugin_library)
    assert "error" not in result.stderr.lower(), result.stderr


@needs_lean
def test_plugins_are_made_and_destroyed(plugin_library: Path) -> None:
    # The bindings' clone() and the like are there for plugins written in Python; the C++ program tests ours.
    program = """
register_plugins(trt)
for name, attributes in (
    ("MultiscaleDeformableAttention", {"num_heads": 8, "num_points": 4}), ("MaskedAttention", {"num_heads": 8})
):
    plugin = create(name, **attributes)
    for kind in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
        assert plugin.get_capability_interface(kind) is not None, kind
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    assert (core.plugin_name, core.plugin_version, core.plugin_namespace) == (name, "1", "mask2edge")
    del core, plugin
"""
    passes(program, plugin_library)


@needs_lean
@pytest.mark.parametrize(
    ("plugin", "attributes", "message"),
    [
        ("MultiscaleDeformableAttention", "num_heads=8", "attribute num_points is missing"),
        ("MultiscaleDeformableAttention", "num_heads=[8, 8], num_points=4", "attribute num_heads must be one int32"),
        ("MaskedAttention", "", "attribute num_heads is missing"),
        ("MaskedAttention", "num_heads=0", "attribute num_heads must be from 1 to 1024, got 0"),
    ],
)
def test_plugin_refuses_attributes(plugin_library: Path, plugin: str, attributes: str, message: str) -> None:
    result = passes(f"register_plugins(trt)\nassert create({plugin!r}, {attributes}) is None", plugin_library)
    assert f"{plugin} (layer layer): {message}" in result.stdout + result.stderr


@needs_lean
def test_without_a_plugin_library_the_registry_says_what_to_do() -> None:
    program = """
from mask2edge import trt_plugins
trt_plugins._installed_plugin_library = lambda: None
try:
    register_plugins(trt)
except OSError as error:
    print(error)
"""
    said = passes(program).stdout.strip()
    assert "\n" not in said
    assert said.startswith("libmask2edge_tensorrt.so was not built when mask2edge was installed")
    for what in ("nvcc", "TENSORRT_INCLUDE_DIR", "MASK2EDGE_TENSORRT=ON"):
        assert what in said


def test_plugin_library_has_the_version_of_the_python_side(plugin_library: Path) -> None:
    assert trt_plugins.plugin_library_version(plugin_library) == trt_plugins.OP_VERSION
    # Nothing of CUDA is asked on loading: this process has no driver, and goes on.
    assert ctypes.CDLL(str(plugin_library)) is not None


def test_another_plugin_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(OSError, match=r"text\.so does not load: "):
        trt_plugins.register_plugins(None, text)
    with pytest.raises(OSError, match="is not mask2edge's plugin library"):
        trt_plugins.plugin_library_version(Path("libc.so.6"))
    monkeypatch.setattr(trt_plugins, "plugin_library_version", lambda library: trt_plugins.OP_VERSION + 1)
    with pytest.raises(ValueError, match=r"has ops of version \d+, expected version \d+: run `pip install \.` again"):
        trt_plugins.register_plugins(None, text)


def test_tensorrt_that_takes_no_plugins_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Registry:
        all_creators = ()

        def load_library(self, path: str) -> None: ...

    class Module:
        def get_plugin_registry(self) -> Registry:
            return Registry()

    monkeypatch.setattr(trt_plugins, "plugin_library_version", lambda library: trt_plugins.OP_VERSION)
    with pytest.raises(ValueError, match="did not register MultiscaleDeformableAttention, MaskedAttention from"):
        trt_plugins.register_plugins(Module(), tmp_path)


def test_the_variable_names_a_plugin_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "plugins.so"
    monkeypatch.setenv(trt_plugins.PLUGIN_LIBRARY_VARIABLE, str(library))
    assert trt_plugins.tensorrt_plugin_library() is None
    assert trt_plugins.why_no_plugin_library().startswith(f"{trt_plugins.PLUGIN_LIBRARY_VARIABLE} names {library}")
    library.touch()
    assert trt_plugins.tensorrt_plugin_library() == library.resolve()
    assert trt_plugins.why_no_plugin_library() == ""


LEAN_10 = Path(sys.prefix) / "tensorrt-lean-10"
ON_LOAD = """
import ctypes, os, sys
try:
    import tensorrt_lean_bindings as trt
except ImportError:
    import tensorrt_lean as trt
registry = trt.get_plugin_registry()
ctypes.CDLL(os.environ["MASK2EDGE_PLUGIN_LIBRARY"])
there = sorted(c.name for c in registry.all_creators if c.plugin_namespace == "mask2edge")
print(trt.__version__.split(".")[0], *there)
from mask2edge.trt_plugins import register_plugins
register_plugins(trt)  # the runtime, in such a process, is content with what is there
print(len([c for c in registry.all_creators if c.plugin_namespace == "mask2edge"]))
"""


def opened(library: Path, wish: str, packages: Path | None) -> subprocess.CompletedProcess[str]:
    """As Triton's TensorRT backend takes it: the library is opened, and that is all."""
    environment = {**os.environ, "MASK2EDGE_REGISTER_ON_LOAD": wish, trt_plugins.PLUGIN_LIBRARY_VARIABLE: str(library)}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    return subprocess.run(
        [sys.executable, "-c", ON_LOAD], capture_output=True, text=True, env=environment, timeout=120, check=True
    )


@pytest.mark.skipif(
    not LEAN_10.is_dir(),
    reason="TensorRT 10 is not here: pip install --no-deps --target $VIRTUAL_ENV/tensorrt-lean-10 "
    "'tensorrt-lean-cu13-libs==10.*' 'tensorrt-lean-cu13-bindings==10.*'",
)
@pytest.mark.parametrize(
    ("wish", "names"), [("1", "MaskedAttention MultiscaleDeformableAttention"), ("", ""), ("0", "")]
)
def test_it_registers_itself_where_that_is_asked_for(plugin_library: Path, wish: str, names: str) -> None:
    done = opened(plugin_library, wish, LEAN_10)
    assert done.stdout.splitlines() == [f"10 {names}".strip(), "2"]
    assert "mask2edge:" not in done.stderr


@needs_lean
def test_it_does_not_register_itself_in_another_major_version(plugin_library: Path) -> None:
    """Its headers' registry has the functions in another order: a call would be another function's."""
    done = opened(plugin_library, "1", None)
    loaded = done.stdout.split()[0]
    assert (
        f"mask2edge: TensorRT {loaded} is loaded, and the plugins were compiled for 10: not registered" in done.stderr
    )
    assert done.stdout.splitlines() == [loaded, "2"]


def test_it_says_that_no_tensorrt_is_there(plugin_library: Path, monkeypatch) -> None:
    monkeypatch.setenv("MASK2EDGE_REGISTER_ON_LOAD", "1")
    done = subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(plugin_library)!r})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "but no TensorRT is loaded in this process" in done.stderr
