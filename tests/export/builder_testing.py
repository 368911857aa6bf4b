"""What the tests of the TensorRT builder share: a pretended GPU, and what the command line says and leaves.

from builder_testing import gpu_fixture, library_fixture, refused      # the fixtures `gpu` and `library`
"""

from pathlib import Path

import builder_doubles
import onnx
import pytest
from builder_doubles import BuilderMachine, install, runnable
from tiny_export import FIXED, tiny_spec
from toy_graph import toy_graph

from mask2edge.export.build_engine import main
from mask2edge.export.half_storage import metadata_of
from mask2edge.export.onnx_metadata import Description


@pytest.fixture(name="library")
def library_fixture(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("library") / "libmask2edge_tensorrt.so"
    file.write_bytes(b"a library")
    return file


@pytest.fixture(name="gpu")
def gpu_fixture(monkeypatch, library):
    """gpu(profile, version=…, **arguments of BuilderMachine): a pretended GPU whose engines calculate the toy network
    with standard ops.
    """

    def make(profile=FIXED, version=builder_doubles.VERSION, library=library, patch=monkeypatch, **machine):
        machine.setdefault("runs", runnable(toy_graph("standard", profile)))
        return install(patch, BuilderMachine(**machine), version, library, tiny_spec())

    return make


def described(proto) -> Description:
    return Description.from_metadata(metadata_of(proto), "the graph")


def written(proto, name="model.onnx") -> Path:
    onnx.save(proto, name)
    return Path(name)


def refused(capsys, *arguments) -> str:
    """The one line of a refusal on the command line."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *progress, line = captured.err.splitlines()
    assert all(text.startswith(("backend ", "building", "standard ops")) for text in progress), progress
    assert line.startswith("error: ")
    return line


def left() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())
