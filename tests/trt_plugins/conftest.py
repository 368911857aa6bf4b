"""The TensorRT plugin library, compiled once for all tests that load it."""

from pathlib import Path

import pytest
from native_build import PluginBuild, Unavailable, build_plugins


@pytest.fixture(scope="session")
def plugin_build() -> PluginBuild:
    """The library and its contract tests; a skip where nvcc or TensorRT's headers are absent."""
    try:
        return build_plugins()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def plugin_library(plugin_build: PluginBuild) -> Path:
    return plugin_build.library
