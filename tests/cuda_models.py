# SPDX-License-Identifier: MIT
"""Exported models whose losses the CUDA kernels compute, on the host or on a GPU.

The nodes around a loss are onnx.reference's, so that no ONNX Runtime for GPUs is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxloss.onnxscript_defs import CATALOGUE, DOMAIN
from tests import cuda_calls
from tests.runtime import WAYS, run_model

CUDA = "CUDA kernels"
EVERY_WAY = (*WAYS, CUDA)
"""How one exported loss is run, by the kernels of either kind; a bad label's error is the CPU's."""

_OPS = {op.name: (spec, op) for spec in CATALOGUE for op in spec.ops}


def run_way(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], way: str
) -> dict[str, np.ndarray]:
    """The outputs of `model`, which was exported for one of EVERY_WAY."""
    if way != CUDA:
        return run_model(model, feeds, library=way == "library")
    evaluator = ReferenceEvaluator(model, new_ops=_KERNELS)
    names = [value.name for value in model.graph.output]
    # Infinities are in the cases.
    with np.errstate(all="ignore"):
        return dict(zip(names, evaluator.run(names, dict(feeds)), strict=True))


def _run_node(node: onnx.NodeProto, *inputs: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
    spec, op = _OPS[node.op_type]
    ports = [port.name for port in op.inputs]
    arrays = {name: value for name, value in zip(ports, inputs, strict=False) if value is not None}
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    attributes = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in attributes.items()
    }
    names = [port.name for port in op.outputs]
    wanted = [name if output else "" for name, output in zip(names, node.output, strict=False)]
    outputs = tuple(filter(None, wanted))
    if spec.name.startswith("Sampled"):
        results = cuda_calls.run_sampled(attributes, arrays, outputs=outputs)
    else:
        for name in ("label_smoothing", "epsilon"):
            attributes[name] += attributes.pop(f"{name}_low")
        soft = spec.name.startswith("SoftLabel")
        results = cuda_calls.run(attributes, arrays, soft=soft, outputs=outputs)
    return tuple(results.get(name) for name in wanted)


class _Kernel(OpRun):
    op_domain = DOMAIN

    def _run(self, *inputs: np.ndarray | None, **_: Any) -> tuple[np.ndarray | None, ...]:
        return _run_node(self.onnx_node, *inputs)


_KERNELS = [type(name, (_Kernel,), {}) for name in _OPS]
