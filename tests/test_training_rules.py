# SPDX-License-Identifier: MIT
"""The adjoint of each operator that has a rule of ours, against central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxloss.training import initial_state, training_step
from onnxloss.training.adjoints import RULES
from tests.forward_models import CONFIG, model_of, value
from tests.runtime import make_session, run_session
from tests.test_training_gradients import along_gradient

DOUBLE = TensorProto.DOUBLE
BATCH = 4
SINGLE = ("Conv", "AveragePool", "GlobalAveragePool")
"""Operators that ONNX Runtime has in float32 only."""


def node(op_type: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def swapped(inputs: str, outputs: str) -> onnx.NodeProto:
    return node("Transpose", inputs, outputs, perm=[0, 2, 1])


EMPTY = numpy_helper.from_array(np.array([], np.int64))
# Along no axes named, which are all.
SCALED = [node("ReduceMean", "a none", "b"), node("Mul", "a b")]

# The rules; the shape of x behind its batch, which is "N"; the shapes of the parameters; the nodes
# from x to y.
CASES: list[tuple[str, tuple[int, ...], dict[str, tuple[int, ...]], list[onnx.NodeProto]]] = [
    ("Add", (4,), {"p": (4,)}, [node("Add", "x p")]),
    ("Add", (4,), {"p": (1, 4)}, [node("Add", "p x")]),
    ("Add Mul", (1,), {"p": (1, 4)}, [node("Mul", "x p", "a"), node("Add", "a x")]),
    ("Add", (4,), {"p": (4, 4)}, [node("MatMul", "x p", "a"), node("Add", "a a")]),
    ("Sub", (4,), {"p": (4,), "q": (1,)}, [node("Sub", "p x", "a"), node("Sub", "a q")]),
    ("Mul", (2, 4), {"p": (2, 1), "q": (1,)}, [node("Mul", "x p", "a"), node("Mul", "a q")]),
    ("Div", (4,), {"p": (4,), "q": (1, 1)}, [node("Div", "x p", "a"), node("Div", "q a")]),
    ("Neg", (4,), {"p": (4,)}, [node("Mul", "x p", "a"), node("Neg", "a")]),
    ("Identity", (4,), {"p": (4,)}, [node("Mul", "x p", "a"), node("Identity", "a")]),
    ("Relu", (4,), {"p": (4,)}, [node("Add", "x p", "a"), node("Relu", "a")]),
    ("Tanh", (4,), {"p": (4,)}, [node("Add", "x p", "a"), node("Tanh", "a")]),
    ("Cast", (4,), {"p": (4,)}, [node("Cast", "p", "a", to=DOUBLE), node("Mul", "x a")]),
    ("Gemm", (4,), {"p": (4, 3), "q": (3,)}, [node("Gemm", "x p q", alpha=0.7, beta=1.3)]),
    ("Gemm", (4,), {"p": (3, 4)}, [node("Gemm", "p x", transB=1)]),
    (
        "Gemm",
        (4,),
        {"p": (4, 3), "q": (4, 3)},
        [node("Gemm", "p x", "a", transA=1, transB=1), node("Gemm", "a q", transA=1, transB=1)],
    ),
    ("MatMul", (2, 4), {"p": (4, 3)}, [node("MatMul", "x p")]),
    (
        "MatMul Transpose",
        (2, 4),
        {"p": (4, 4)},
        [node("MatMul", "x p", "a"), swapped("a", "b"), node("MatMul", "a b")],
    ),
    ("MatMul", (2, 4), {"p": (3, 2)}, [node("MatMul", "p x")]),
    ("MatMul", (2, 4), {"p": (4,)}, [node("MatMul", "x p")]),
    (
        "Reshape Flatten Squeeze Unsqueeze",
        (2, 3),
        {"p": (6,), "q": (3,)},
        [
            node("Flatten", "x", "f"),
            node("Mul", "f p", "a"),
            node("Reshape", "a shape", "b"),
            node("Unsqueeze", "b zero", "c"),
            node("Squeeze", "c zero", "d"),
            node("Mul", "d q"),
        ],
    ),
    (
        "Split",
        (6,),
        {"p": (6,)},
        [
            node("Mul", "x p", "a"),
            node("Split", "a", "b c", axis=1, num_outputs=2),
            node("Mul", "b c"),
        ],
    ),
    (
        "Split",
        (6,),
        {"p": (6,)},
        [node("Mul", "x p", "a"), node("Split", "a", "y unused", axis=1, num_outputs=2)],
    ),
    ("Softmax", (2, 4), {"p": (4,)}, [node("Mul", "x p", "a"), node("Softmax", "a", axis=1)]),
    ("Gather", (2, 2), {"p": (7, 2)}, [node("Gather", "p indices", "a"), node("Mul", "a x")]),
    ("Gather", (4,), {"p": (2, 7)}, [node("Gather", "p indices", axis=1)]),
    ("Slice", (2, 3), {"p": (4, 6)}, [node("Slice", "p one T", "a"), node("Mul", "a one_each")]),
    (
        "Slice",
        (5,),
        {"p": (5,)},
        [node("Mul", "x p", "a"), node("Slice", "a one four ones")],
    ),
    (
        "Slice",
        (5,),
        {"p": (5,)},
        [node("Mul", "x p", "a"), node("Slice", "a minus_two five ones")],
    ),
    (
        "LayerNormalization",
        (2, 4),
        {"p": (4,), "q": (4,), "r": (4, 4)},
        [
            node("MatMul", "x r", "a"),
            node("LayerNormalization", "a p q", epsilon=1e-3),
        ],
    ),
    (
        "LayerNormalization",
        (2, 4),
        {"p": (2, 4), "r": (4, 4)},
        [node("MatMul", "x r", "a"), node("LayerNormalization", "a p", axis=1)],
    ),
    (
        "BatchNormalization",
        (2, 3),
        {"p": (2,), "q": (2,), "r": (3, 3)},
        [
            node("MatMul", "x r", "a"),
            node("BatchNormalization", "a p q mean variance", "y m v", training_mode=1),
        ],
    ),
    (
        "Conv",
        (2, 5, 6),
        {"p": (3, 2, 2, 3), "q": (3,), "r": (4, 3, 3, 2)},
        [
            node("Conv", "x p q", "a", strides=[2, 1], pads=[1, 0, 0, 2]),
            node("Conv", "a r", dilations=[1, 2], pads=[1, 1, 1, 1], strides=[2, 2]),
        ],
    ),
    (
        "AveragePool",
        (2, 5, 6),
        {"p": (6,)},
        [
            node("Mul", "x p", "a"),
            node(
                *("AveragePool", "a"),
                kernel_shape=[2, 3],
                strides=[2, 2],
                pads=[1, 0, 0, 1],
                count_include_pad=1,
            ),
        ],
    ),
    (
        "AveragePool",
        (2, 6, 5),
        {"p": (5,)},
        [
            node("Mul", "x p", "a"),
            node(*("AveragePool", "a"), kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 0]),
        ],
    ),
    ("ReduceMean", (4,), {"p": (4,)}, [node("Mul", "x p", "a"), *SCALED]),
    (
        "ReduceMean",
        (4,),
        {"p": (4,)},
        [
            node("Mul", "x p", "a"),
            node("Constant", "", "axes", value=EMPTY),
            node("ReduceMean", "a axes", "b"),
            node("Mul", "a b"),
        ],
    ),
    (
        "Einsum",
        (4,),
        {"p": (4,)},
        [node("Mul", "x p", "a"), node("Einsum", "a a", equation="ij,ij->i")],
    ),
    (
        "GlobalAveragePool",
        (2, 5, 6),
        {"p": (6,)},
        [node("Mul", "x p", "a"), node("Mul", "a x", "b"), node("GlobalAveragePool", "b")],
    ),
]
CONSTANTS = {
    "shape": np.array([-1, 2, 3]),
    "zero": np.array([0]),
    "none": np.array([], np.int64),
    "one": np.array([1]),
    "ones": np.array([1]),
    "four": np.array([4]),
    "five": np.array([5]),
    "minus_two": np.array([-2]),
    "T": np.array([3]),
    "one_each": np.ones((2, 6)),
    "indices": np.array([[6, 0], [-7, 6], [3, 3], [-1, 2]]),
    "mean": np.zeros(2),
    "variance": np.ones(2),
}


def forward_model(
    x: tuple[int, ...],
    parameters: dict[str, tuple[int, ...]],
    nodes: list[onnx.NodeProto],
    dtype: type = np.float64,
) -> onnx.ModelProto:
    """The logits are y in rows of two."""
    random = np.random.default_rng(11)
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in parameters.items()}
    rows = numpy_helper.from_array(np.array([-1, 2]), "rows")
    nodes = [*nodes, helper.make_node("Reshape", ["y", "rows"], ["logits"])]
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [value("x", ["N", *x], elem_type)]
    model = model_of(nodes, inputs, ["M", 2], arrays, elem_type=elem_type)
    read = {name for each in nodes for name in each.input}
    model.graph.initializer.extend(
        [rows, *(numpy_helper.from_array(a, n) for n, a in CONSTANTS.items() if n in read)]
    )
    return model


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case[0]}-{index}" for index, case in enumerate(CASES)]
)
def test_adjoint(case: tuple) -> None:
    names, shape, parameters, nodes = case
    dtype, h, rel = (np.float32, 3e-2, 2e-3) if names in SINGLE else (np.float64, 1e-5, 1e-6)
    forward = forward_model(shape, parameters, nodes, dtype)
    random = np.random.default_rng(12)
    x = random.uniform(0.5, 1.5, (BATCH, *shape)).astype(dtype)
    (y,) = run_session(make_session(forward, library=False), {"x": x}).values()
    feeds = {"x": x, "labels": random.integers(0, 2, len(y))}
    by_step, by_difference = along_gradient(
        forward, feeds, CONFIG, h=h, parameters=list(parameters)
    )
    assert by_step == pytest.approx(by_difference, rel=rel)


def test_a_normalization_of_float16_is_differentiated_in_float32() -> None:
    """Squares of its input are beyond float16."""
    nodes = [node("MatMul", "x r", "a"), node("LayerNormalization", "a p q")]
    shapes = {"p": (4,), "q": (4,), "r": (4, 4)}
    x = np.random.default_rng(12).uniform(100, 900, (BATCH, 2, 4))
    labels = np.random.default_rng(13).integers(0, 2, BATCH * 4)
    results = []
    for dtype in (np.float16, np.float64):
        forward = forward_model((2, 4), shapes, nodes, dtype)
        step = training_step(forward, CONFIG, parameters=list(shapes))
        state = initial_state(step, forward)
        rate = np.ones((), state["p"].dtype)
        feeds = {"x": x.astype(dtype), "labels": labels, "learning_rate": rate, **state}
        new = run_session(make_session(step, library=False), feeds)
        results.append({name: state[name] - new[f"{name}.new"] for name in shapes})
    for name, wanted in results[1].items():
        np.testing.assert_allclose(results[0][name], wanted, atol=0.02 * abs(wanted).max())


def test_indices_of_32_bits() -> None:
    nodes = [node("Cast", "indices", "short", to=TensorProto.INT32), node("Gather", "p short")]
    forward = forward_model((4,), {"p": (7, 2)}, nodes)
    feeds = {"x": np.ones((BATCH, 4)), "labels": np.arange(8) % 2}
    by_step, by_difference = along_gradient(forward, feeds, CONFIG, h=1e-5, parameters=["p"])
    assert by_step == pytest.approx(by_difference, rel=1e-6)


def test_each_rule_has_a_case() -> None:
    assert RULES.keys() <= {name for case in CASES for name in case[0].split()}


def test_common_operators_leave_no_seed_axis() -> None:
    """One Gemm for each product, and no Expand, Squeeze or Unsqueeze at all."""
    forward = forward_model(
        (2, 4),
        {"p": (4, 3), "q": (3,)},
        [
            node("MatMul", "x p", "a"),
            node("Add", "a q", "b"),
            node("Tanh", "b"),
        ],
    )
    kinds = [n.op_type for n in training_step(forward, CONFIG).graph.node]
    assert kinds.count("Gemm") == 1
    assert not {"Expand", "Squeeze", "Unsqueeze", "NonZero"} & set(kinds)
