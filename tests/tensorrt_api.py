"""The names in TensorRT's Python bindings of several releases, without TensorRT. Our code may use what is in all.

    api = load_api("tensorrt-cu12-bindings", "10.3.0")    # Unavailable where no registry is reachable
    api.attributes("Builder")["create_network"]           # Name(value="", result="INetworkDefinition")

The bindings are wheels of 2 MB that import libnvinfer. Libraries of that name with empty functions are made for them on
the spot, so the module imports in a process of its own, and says itself what it has. Wheels and answers are kept under
build/.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build" / "tensorrt-bindings"

# From JetPack 6 to the newest. Packages are named after CUDA's version; the names inside do not depend on it.
RELEASES = (
    ("tensorrt-cu12-bindings", "10.3.0"),
    ("tensorrt-cu13-bindings", "10.13.3.9"),
    ("tensorrt-cu13-bindings", "11.4.0.106"),
)

# What the bindings want of libnvinfer, libnvinfer_plugin and libnvonnxparser. None is called on importing.
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip

# Executed with the bindings: each class's names, with the class of what a call gives or a property has, if it says so.
INSPECTION = r"""
import inspect, json, re
import tensorrt_bindings as trt

def described(text):
    found = re.findall(r"->\s*(?:\w+(?:\.|::))*(\w+)", text or "")
    return found[-1] if found else ""

def name_of(owner, key):
    value = inspect.getattr_static(owner, key)
    if inspect.isclass(value):
        return {"value": value.__name__, "result": value.__name__}
    if isinstance(value, property):
        return {"value": described(getattr(value.fget, "__doc__", "")) or "?", "result": ""}
    if callable(value):
        return {"value": "", "result": described(value.__doc__)}
    return {"value": type(value).__name__, "result": ""}

def names_of(owner):
    return {key: name_of(owner, key) for key in dir(owner)}

classes = {}
def add(owner):
    for value in filter(inspect.isclass, vars(owner).values()):
        if value.__module__.startswith("tensorrt_bindings") and value.__name__ not in classes:
            classes[value.__name__] = names_of(value)
            add(value)
add(trt)
print(json.dumps({"version": trt.__version__, "module": names_of(trt), "classes": classes}))
"""


class Unavailable(Exception):
    """The bindings cannot be had here. Says why, in one line."""


@dataclass(frozen=True)
class Name:
    value: str  # the class of a property or constant, or the class itself
    result: str  # the class of what a call gives


@dataclass(frozen=True)
class Api:
    version: str
    module: dict[str, Name]
    classes: dict[str, dict[str, Name]]

    def attributes(self, owner: str) -> dict[str, Name]:
        """Of a class, or of the module where `owner` is empty."""
        return self.classes.get(owner, {}) if owner else self.module

    def class_named(self, described: str) -> str:
        """The Python class behind a name in a documentation string, which may be the C++ one; or ""."""
        plain = described[1:] if described[:1] == "I" else described  # nvonnxparser::IParserError is ParserError
        return next((name for name in (described, plain) if name in self.classes), "")

    def names(self) -> set[str]:
        return set(self.module).union(*self.classes.values())


@functools.cache
def load_api(package: str, version: str) -> Api:
    """Raises Unavailable where the wheel cannot be downloaded, there is none for this Python, or no C compiler."""
    answer = FOLDER / f"{package}-{version}-{sys.version_info.major}.{sys.version_info.minor}.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:  # the workers of one run
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.is_file():
            answer.write_text(_inspect(_download(package, version), version))
    content = json.loads(answer.read_text())
    return Api(
        content["version"],
        _names(content["module"]),
        {name: _names(members) for name, members in content["classes"].items()},
    )


def _inspect(bindings: Path, version: str) -> str:
    libraries = _stand_in_libraries(version.partition(".")[0])
    environment = os.environ | {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(bindings)}
    said = subprocess.run([sys.executable, "-c", INSPECTION], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    return said.stdout


def _names(members: dict[str, dict[str, str]]) -> dict[str, Name]:
    return {name: Name(**member) for name, member in members.items()}


def _download(package: str, version: str) -> Path:
    folder = FOLDER / f"{package}-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--dest", str(folder), f"{package}=={version}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{package} {version} cannot be downloaded: no answer within {error.timeout:.0f} s"
        ) from error
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        lines = re.findall(r"ERROR: (.+)", result.stderr) or ["no package registry"]
        raise Unavailable(f"{package} {version} cannot be downloaded: {lines[-1]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder)
    return folder


def _stand_in_libraries(major: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler here for libraries in the place of libnvinfer's")
    folder = FOLDER / f"libraries-{major}"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "functions.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", str(source), f"-Wl,-soname,{library}", "-o", str(folder / library)]
        subprocess.run(command, check=True, capture_output=True)
    return folder
