# SPDX-License-Identifier: MIT
"""What every test of the command line gets: a folder of its own, and a forward model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def forward() -> Path:
    """A linear classifier of three classes with the outputs `scores` and `sizes`."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "matrix", "bias"], ["scores"]),
            helper.make_node("ReduceL2", ["x"], ["sizes"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", floats, ("N", 2))],
        [
            helper.make_tensor_value_info("scores", floats, ("N", 3)),
            helper.make_tensor_value_info("sizes", floats, (1, 1)),
        ],
        [
            onnx.numpy_helper.from_array(np.eye(2, 3, dtype=np.float32), "matrix"),
            onnx.numpy_helper.from_array(np.zeros(3, np.float32), "bias"),
        ],
    )
    opset = [helper.make_opsetid("", 19)]
    path = Path("forward.onnx")
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path
