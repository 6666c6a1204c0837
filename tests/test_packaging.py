# SPDX-License-Identifier: MIT
"""What the package says of itself: one version, the extras, types."""

from __future__ import annotations

import re
from importlib import metadata, resources
from pathlib import Path

import onnxloss

ROOT = Path(__file__).parents[1]
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
EXTRAS = {"cpu", "gpu", "train", "torch", "paddle", "tf", "demo", "docs", "view", "test", "dev"}


def test_the_version_of_pyproject_is_everywhere() -> None:
    assert onnxloss.__version__ == VERSION
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M).group(1) == VERSION


def test_the_extras_are_there() -> None:
    assert set(metadata.metadata("onnxloss").get_all("Provides-Extra")) == EXTRAS


def test_types_and_licence_come_with_the_package() -> None:
    assert resources.files("onnxloss").joinpath("py.typed").is_file()
    files = {file.name for file in metadata.files("onnxloss") or ()}
    assert {"LICENSE", "py.typed", "libonnxloss.so"} <= files
