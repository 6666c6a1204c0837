# SPDX-License-Identifier: MIT
"""ONNX Runtime's training operators: by definition, by its own kernels, and fused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxloss
from onnxloss.fusion.definitions import with_definitions
from onnxloss.trial import run
from tests.fuse.fused import CLASSES, arrays_of, losses_of
from tests.fuse.outcomes import FUSED
from tests.fuse.recording import FOLDER
from tests.ort_training.runs import ROOT
from tests.test_ort_training import assert_smoke, interpreter, write

__all__ = ["interpreter"]  # a fixture

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
REDUCTIONS = ("mean", "sum", "none")


def model_of(reduction: str, *, weighted: bool, ignoring: bool, internal: bool) -> onnx.ModelProto:
    """A loss and its gradient as ONNX Runtime writes them: upstream gradient, loss, gradient."""
    settings: dict[str, Any] = {"reduction": reduction}
    constants = {"weights": np.arange(1, 6, dtype=np.float32), "ignored": np.array(2)}
    weights = "weights" if weighted else ""
    if internal:
        last = ["ignored"] if ignoring else []
        names = ("SoftmaxCrossEntropyLossInternal", "SoftmaxCrossEntropyLossInternalGrad")
    else:
        last = []
        names = ("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossGrad")
        if ignoring:
            settings["ignore_index"] = 2
    ends = [weights, *last] if weights or last else []
    shape: list[str | int] = ["N"] if reduction == "none" else []
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    names[0],
                    ["x", "y", *ends],
                    ["loss", "log_p"],
                    domain="com.microsoft" if internal else "",
                    **settings,
                ),
                helper.make_node(
                    names[1],
                    ["dloss", "log_p", "y", *ends],
                    ["dx"],
                    domain="com.microsoft",
                    **settings,
                ),
            ],
            "both",
            [
                helper.make_tensor_value_info("x", FLOAT, ["N", CLASSES]),
                helper.make_tensor_value_info("y", INT, ["N"]),
                helper.make_tensor_value_info("dloss", FLOAT, shape),
            ],
            [
                helper.make_tensor_value_info("loss", FLOAT, shape),
                helper.make_tensor_value_info("dx", FLOAT, ["N", CLASSES]),
            ],
            [numpy_helper.from_array(constants[name], name) for name in ends if name],
        ),
        opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )


CASES = [
    (reduction, weighted, ignoring, internal)
    for reduction in REDUCTIONS
    for weighted in (False, True)
    for ignoring in (False, True)
    for internal in (False, True)
]


@pytest.mark.parametrize(("reduction", "weighted", "ignoring", "internal"), CASES)
def test_loss_and_gradient_become_one_node(
    reduction: str, weighted: bool, ignoring: bool, internal: bool
) -> None:
    model = model_of(reduction, weighted=weighted, ignoring=ignoring, internal=internal)
    fused = onnxloss.fuse(model)
    assert losses_of(fused) == [("SoftmaxCrossEntropyLossAndGrad", reduction)]
    assert len(fused.graph.node) == 1


def test_a_gradient_that_needs_its_loss_stays_apart() -> None:
    """The upstream gradient is the loss: one node for both would wait for itself."""
    model = model_of("mean", weighted=False, ignoring=False, internal=False)
    model.graph.node[1].input[0] = "loss"
    del model.graph.input[2]
    assert losses_of(onnxloss.fuse(model)) == [
        ("SoftmaxCrossEntropyLoss", "mean"),
        ("SoftmaxCrossEntropyLossGrad", "mean"),
    ]


def test_definitions_are_what_onnxruntime_training_computes(
    interpreter: str, tmp_path: Path
) -> None:
    """And so do the fused models there, with and without the library."""
    for reduction, weighted, ignoring, internal in CASES:
        model = model_of(reduction, weighted=weighted, ignoring=ignoring, internal=internal)
        defined = with_definitions(model)
        assert defined is not None
        arrays = arrays_of(model)
        expected = run(defined, arrays)
        allowed = {name: np.full(values.shape, 4e-6) for name, values in expected.items()}
        name = f"{reduction}-{weighted}-{ignoring}-{internal}"
        write(tmp_path, name, model, arrays, expected, allowed)
        write(tmp_path, f"{name}-fused", onnxloss.fuse(model), arrays, expected, allowed)
    assert_smoke(interpreter, tmp_path, runs=4 * len(CASES))


@pytest.mark.parametrize("loss", ["mean", "weighted_sum"])
def test_training_graphs_give_the_same_gradients(
    loss: str, interpreter: str, tmp_path: Path
) -> None:
    """The graph that onnxblock made, and the fused one, as a whole in onnxruntime-training."""
    original = onnx.load(FOLDER / f"ort_training-{loss}_training.onnx")
    fused = onnxloss.fuse(original)
    arrays = arrays_of(original)
    labels = next(name for name, array in arrays.items() if array.dtype == np.int64)
    logits = arrays["x"] @ arrays["matrix"] + arrays["bias"]
    config = {"mean": {}, "weighted_sum": {"reduction": "sum", "ignore_index": 1}}[loss]
    weights = [t for t in original.graph.initializer if t.name == "class_weights"]
    step = onnxloss.export(
        onnxloss.from_onnx(
            "SoftmaxCrossEntropyLoss",
            weights=numpy_helper.to_array(weights[0]) if weights else None,
            **config,
        ),
        logits=logits.shape,
        gradient=True,
    )
    feeds = {"logits": logits, "labels": arrays[labels], "dloss": np.ones((), np.float32)}
    loss_value, dlogits = run(step, feeds).values()
    expected = {original.graph.output[0].name: loss_value, "logits_grad": dlogits}
    allowed = {name: np.full(values.shape, 4e-6) for name, values in expected.items()}
    for name, model in (("original", original), ("fused", fused)):
        model.graph.output.append(helper.make_tensor_value_info("logits_grad", FLOAT, logits.shape))
        write(tmp_path, name, model, arrays, expected, allowed)
    assert_smoke(interpreter, tmp_path, runs=4)


def test_what_onnxblock_writes_today_is_fused(interpreter: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [interpreter, "-m", "tests.fuse.make_ort_training", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    paths = sorted(tmp_path.glob("*.onnx"))
    assert {path.name for path in paths} == {path.name for path in FOLDER.glob("ort_training-*")}
    for path in paths:
        assert losses_of(onnxloss.fuse(onnx.load(path))) == [FUSED[path.stem]]
