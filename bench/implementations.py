# SPDX-License-Identifier: MIT
"""The implementations that a loss is timed against, on one problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

import onnxloss
from bench.timing import BOTH, LOSS, Run, bound_run
from tests.cases import DTYPES


@dataclass(frozen=True)
class Problem:
    """The inputs of one table of the benchmark, and its right answers."""

    shape: tuple[int, ...]
    dtype: str
    threads: int
    logits: np.ndarray
    labels: np.ndarray
    loss: float
    dlogits: np.ndarray

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes moved at least: the logits read, and with the gradient as many written."""
        return {LOSS: self.logits.nbytes, BOTH: 2 * self.logits.nbytes}


def _library(problem: Problem, what: str) -> Run | None:
    return _onnx_run(problem, _exported(problem, what), library=True)


def _body(problem: Problem, what: str) -> Run | None:
    return _onnx_run(problem, _exported(problem, what), library=False)


def _stock(problem: Problem, what: str) -> Run | None:
    """ONNX's own operator, which ONNX Runtime expands to its parts."""
    if what != LOSS:
        return None
    types = {name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype in DTYPES.items()}
    dtype = types[problem.dtype]
    graph = helper.make_graph(
        [helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "labels"], ["loss"])],
        "stock",
        [
            helper.make_tensor_value_info("logits", dtype, problem.shape),
            helper.make_tensor_value_info("labels", onnx.TensorProto.INT64, problem.labels.shape),
        ],
        [helper.make_tensor_value_info("loss", dtype, ())],
    )
    opset = [helper.make_opsetid("", 19)]
    return _onnx_run(
        problem, helper.make_model(graph, opset_imports=opset, ir_version=9), library=False
    )


def _torch(problem: Problem, what: str) -> Run | None:
    """PyTorch's eager loss; the gradient by its autograd."""
    return _torch_run(problem, what, compiled=False)


def _torch_compile(problem: Problem, what: str) -> Run | None:
    """The same, compiled by PyTorch for these shapes."""
    return _torch_run(problem, what, compiled=True)


def _torch_run(problem: Problem, what: str, *, compiled: bool) -> Run | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(problem.threads)
    dtype = getattr(torch, problem.dtype)
    logits = torch.from_numpy(problem.logits.astype(np.float32)).to(dtype)
    labels = torch.from_numpy(problem.labels)
    logits.requires_grad_(what == BOTH)
    cross_entropy: Callable[..., Any] = torch.nn.functional.cross_entropy
    if compiled:
        torch.compiler.reset()  # a loss compiled for another number of threads is no use here
        cross_entropy = torch.compile(cross_entropy, dynamic=False)

    def run() -> tuple[np.ndarray, ...]:
        loss = cross_entropy(logits, labels)
        if what == LOSS:
            return (loss.float().numpy(),)
        logits.grad = None
        loss.backward()
        # Left in its own dtype, so that no conversion is timed; `check` converts.
        gradient = logits.grad if dtype == torch.float32 else logits.grad.view(torch.int16)
        return loss.detach().float().numpy(), gradient.numpy().view(DTYPES[problem.dtype])

    return run


IMPLEMENTATIONS: dict[str, Callable[[Problem, str], Run | None]] = {
    "onnxloss, library": _library,
    "onnxloss, function body": _body,
    "onnxruntime, ai.onnx SoftmaxCrossEntropyLoss": _stock,
    "torch, eager": _torch,
    "torch.compile": _torch_compile,
}


def _exported(problem: Problem, what: str) -> onnx.ModelProto:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    return onnxloss.export(config, logits=problem.shape, dtype=problem.dtype, gradient=what == BOTH)


def _onnx_run(problem: Problem, model: onnx.ModelProto, *, library: bool) -> Run | None:
    dtype = DTYPES[problem.dtype]
    feeds = {"logits": problem.logits, "labels": problem.labels, "dloss": np.ones((), dtype)}
    outputs = {"loss": np.zeros((), dtype), "dlogits": np.zeros(problem.shape, dtype)}
    return bound_run(model, feeds, outputs, library=library, threads=problem.threads)
