# SPDX-License-Identifier: MIT
"""Trains one step with the loss of each case in onnxruntime-training 1.19.2; prints what is wrong.

Usage: python -m tests.ort_training.cases [--every N] [SUBSTRING OF A CASE'S ID]

It needs onnxloss in the environment of onnxruntime-training 1.19.2. The logits are the parameter,
and what is trained is the sum of the losses times the case's upstream gradient: the gradient that
the parameter gets is the case's `dlogits`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import onnxloss
from onnxloss.training import ort
from tests import reference
from tests.cases import CASES, DTYPES, Case
from tests.tolerance import eps

# Not the first import: onnxloss.training.ort lets it be imported without PyTorch.
from onnxruntime.training import artifacts, onnxblock  # isort: skip
from onnxruntime.training.api import CheckpointState, Module  # isort: skip

ROWS_AND_CLASSES = 4096


def chosen(every: int, text: str) -> list[Case]:
    """The cases that 1.19.2 takes from Python: no bfloat16 array, and no large one."""
    known = [
        case
        for case in CASES
        if case.label_dtype != "bfloat16"
        and not (case.dtype == "bfloat16" and case.trait.sampled)
        and 0 < np.prod(case.trait.shape) <= ROWS_AND_CLASSES
        and text in case.id
    ]
    return known[::every]


class Total(onnxblock.Block):
    """The sum of a loss times its upstream gradient."""

    def __init__(self, loss: ort.Loss, dloss: np.ndarray) -> None:
        super().__init__()
        self.loss, self.dloss = loss, dloss

    def build(self, logits: str) -> str:
        """Adds the loss and the sum behind the logits."""
        graph, loss = self.base.graph, self.loss(logits)
        graph.initializer.append(numpy_helper.from_array(self.dloss, "upstream"))
        graph.node.extend(
            [
                helper.make_node("Cast", [loss], ["wide"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", ["wide", "upstream"], ["product"]),
                helper.make_node("ReduceSum", ["product"], ["total"], keepdims=0),
            ]
        )
        return "total"


def model_of(case: Case) -> onnx.ModelProto:
    """The logits are the parameter `p`, in the case's dtype."""
    elem_type = helper.np_dtype_to_tensor_dtype(DTYPES[case.dtype])
    logits = case.inputs.logits.astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["p"], ["logits"], to=elem_type)],
        "parameter",
        [],
        [helper.make_tensor_value_info("logits", elem_type, logits.shape)],
        [numpy_helper.from_array(logits, "p")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def make_artifacts(case: Case, folder: str) -> None:
    """The files of the case."""
    given = case.inputs
    config = onnxloss.LossConfig(
        case.op,
        case.attributes,
        class_weights=given.class_weights,
        sample_weights=case.trait.sampled,
    )
    loss = ort.Loss(
        config,
        label_dtype=case.label_dtype,
        sample_weights="sample_weights" if case.trait.sampled else None,
    )
    block = Total(loss, given.dloss.astype(np.float32))
    artifacts.generate_artifacts(
        model_of(case), requires_grad=["p"], loss=block, artifact_directory=folder
    )


def step(case: Case, folder: str, *, library: bool) -> dict[str, np.ndarray]:
    """The loss and the parameter's gradient."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library:
        onnxloss.register(options)
    state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
    files = [f"{folder}/training_model.onnx", state, f"{folder}/eval_model.onnx"]
    module = Module(*files, session_options=options)
    feeds = [case.inputs.labels]
    if case.inputs.sample_weights is not None:
        feeds.append(case.inputs.sample_weights)
    total = module(*feeds)
    return {"total": np.asarray(total), "dlogits": state.parameters["p"].grad}


def truth_of(case: Case) -> dict[str, np.ndarray]:
    """The reference's answer for the logits as a float32 parameter holds them."""
    given = case.inputs
    loss, dlogits = getattr(reference, case.loss)(
        given.logits.astype(np.float32).astype(DTYPES[case.dtype]),
        given.labels,
        given.dloss,
        given.class_weights,
        given.sample_weights,
        **case.attributes,
    )
    return {"total": np.sum(loss * given.dloss.astype(np.float64)), "dlogits": dlogits}


def differences(case: Case, result: dict[str, np.ndarray]) -> list[str]:
    """What is not as the reference has it, in words."""
    wrong = []
    for name, expected in truth_of(case).items():
        got = np.asarray(result[name], np.float64)
        expected = np.asarray(expected, np.float64)
        finite = np.isfinite(expected)
        unit = max(eps(DTYPES[case.dtype]), eps(np.dtype(np.float32)))
        bound = 32 * unit * np.maximum(1.0, np.abs(np.where(finite, expected, 0)))
        same = got.shape == expected.shape and np.array_equal(
            got[~finite], expected[~finite], equal_nan=True
        )
        if not same or np.any(np.abs(got[finite] - expected[finite]) > bound[finite]):
            wrong.append(f"{name} is {got.ravel()[:6]}; expected {expected.ravel()[:6]}")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("text", nargs="?", default="")
    options = parser.parse_args(arguments)
    cases = chosen(options.every, options.text)
    failures = 0
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                make_artifacts(case, folder)
                for library in (False, True):
                    wrong = differences(case, step(case, folder, library=library))
                    failures += bool(wrong)
                    for line in wrong:
                        print(f"{case.id} ({'library' if library else 'function body'}): {line}")
            # Any error is a finding to print, and no reason to stop.
            except Exception as error:
                failures += 1
                print(f"{case.id}: {type(error).__name__}: {error}")
    print(f"onnxruntime {onnxruntime.__version__}: {len(cases)} losses, {failures} wrong")
    return 1 if failures or not cases else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
