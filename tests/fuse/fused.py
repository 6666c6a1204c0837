# SPDX-License-Identifier: MIT
"""What the tests of fused models share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxloss
from onnxloss.onnxscript_defs import DOMAIN
from tests.fuse.outcomes import FUSED, LEFT
from tests.runtime import run_model

CLASSES = 5


def assert_outcome(
    name: str, model: onnx.ModelProto, x: Any, y: Any, expected: Any, tolerance: float = 1e-5
) -> None:
    """Asserts that a model is fused as outcomes.py says, and gives the expected loss of x and y."""
    if name in LEFT:
        with pytest.raises(onnxloss.LossError, match=LEFT[name]):
            onnxloss.fuse(model)
        return
    fused = onnxloss.fuse(model)
    assert losses_of(fused) == [FUSED[name]]
    for library in (False, True):
        (loss,) = run_model(fused, {"x": x, "y": y}, library=library).values()
        # paddle2onnx gives a scalar the shape [1].
        loss = loss.reshape(np.shape(expected)) if loss.size == 1 else loss
        np.testing.assert_allclose(loss, expected, rtol=tolerance, atol=tolerance)


def losses_of(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """The operators of ours in a model, each with its reduction."""
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    return [(node.op_type, str(settings_of(node)["reduction"].decode())) for node in nodes]


def settings_of(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes."""
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def arrays_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Arrays for a recorded model's inputs: labels are all classes, all else is positive."""
    rng = np.random.default_rng(5)
    arrays = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else 4 for dim in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        random = rng.random(shape) if value.name == "y" else rng.uniform(0, 4, shape)
        if dtype.kind == "i":
            random = rng.integers(0, CLASSES, shape)
        arrays[value.name] = random.astype(dtype)
    return arrays
