# SPDX-License-Identifier: MIT
"""Parts of a model, random arrays for them, and their run in ONNX Runtime: for comparisons."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .dtypes import FLOAT_DTYPES, name_of
from .errors import LossError
from .library import register, runtime
from .writer import subgraphs, value_names

if TYPE_CHECKING:
    import onnxruntime

SIZE = 7
"""What a dynamic dimension is for random arrays."""

TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5, "float64": 1e-10}
"""By how much two runs may differ, times max(1, |value|): what rounding explains."""


def part_of(
    model: onnx.ModelProto,
    outputs: Sequence[str],
    stops: Collection[str],
    values: Mapping[str, onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """The part of a model that computes `outputs` from the values `stops` and its own inputs.

    Args:
        model: The model.
        outputs: Names of values.
        stops: Names of values that the part takes as inputs.
        values: The types of values, by name.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    wanted, needed, inputs, kept = list(outputs), set(), [], []
    while wanted:
        name = wanted.pop()
        if name in needed or not name:
            continue
        needed.add(name)
        if name in constants and name not in stops:
            kept.append(constants[name])
        elif name in stops or name not in makers:
            inputs.append(name)
        else:
            wanted.extend(makers[name].input)
            for inner in subgraphs(makers[name]):
                wanted.extend(_outer_names(inner, needed))
    unknown = [name for name in (*inputs, *outputs) if name not in values]
    if unknown:
        raise LossError(
            f'the type of "{unknown[0]}" is not known; run onnx.shape_inference on the model.'
        )
    nodes = [
        node for node in graph.node if any(name in needed - set(inputs) for name in node.output)
    ]
    part = onnx.ModelProto()
    part.CopyFrom(model)
    part.graph.Clear()
    part.graph.CopyFrom(
        helper.make_graph(
            nodes,
            "part",
            [values[name] for name in sorted(inputs)],
            [values[name] for name in outputs],
            kept,
        )
    )
    return part


def inferred(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model with the types of its values, as far as they follow from its inputs'.

    Raises:
        LossError: The types contradict each other, or the model is too large for one message.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # onnx's errors, and protobuf's of 2 GB
        raise LossError(f"{where}: onnx.shape_inference says: {error}") from error


def typed_values(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The values of the graph whose type is known, by name."""
    graph = model.graph
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in graph.initializer:
        values[tensor.name] = helper.make_tensor_value_info(
            tensor.name, tensor.data_type, tensor.dims
        )
    return {name: value for name, value in values.items() if value.type.tensor_type.elem_type}


def sizes_of(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The sizes of a value's shape, with SIZE for each dynamic one; None if its rank is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else SIZE for dim in tensor.shape.dim)


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """The numpy dtype of a value."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def run(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, library: bool = False
) -> dict[str, np.ndarray]:
    """The outputs of a model by name, bfloat16 as float32.

    Raises:
        LossError: ONNX Runtime is not installed, or cannot run the model: with its message.
    """
    model, feeds = without_bfloat16(model), dict(feeds)
    for name, array in feeds.items():
        if array.dtype == FLOAT_DTYPES["bfloat16"]:
            feeds[name] = array.astype(np.float32)
    return run_session(make_session(model, library=library), feeds)


def run_session(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The outputs of a session by name.

    Raises:
        LossError: The run failed.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))
    except Exception as error:  # onnxruntime's errors have no class of their own in common
        raise _said(error) from error


def make_session(
    model: onnx.ModelProto, *, library: bool, threads: int = 0
) -> onnxruntime.InferenceSession:
    """A session on the CPU that keeps its log to itself.

    Raises:
        LossError: ONNX Runtime is not installed, or does not take the model.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if library:
        register(options)
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # as above; and protobuf's, of 2 GB
        raise _said(error) from error


def difference(
    left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], dtypes: Mapping[str, str]
) -> tuple[float, str]:
    """By how much two runs differ at most, as a share of what rounding explains, and where.

    A share above 1 is a disagreement, and infinity one in shape or in what is not finite.
    """
    worst, place = 0.0, ""
    for name, first in left.items():
        share = _share(first, right[name], TOLERANCES.get(dtypes[name], 0.0))
        if share > worst or not place:
            worst, place = share, name
    return worst, place


def dtype_names(model: onnx.ModelProto) -> dict[str, str]:
    """The dtype of each output."""
    return {value.name: name_of(value.type.tensor_type.elem_type) for value in model.graph.output}


def _share(left: np.ndarray, right: np.ndarray, tolerance: float) -> float:
    if left.shape != right.shape:
        return np.inf
    if left.dtype.kind not in "fV" or not tolerance:
        return 0.0 if np.array_equal(left, right) else np.inf
    left, right = left.astype(np.float64), right.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return np.inf
    error = np.abs(left[finite] - right[finite]) / np.maximum(1.0, np.abs(left[finite]))
    return float(error.max(initial=0.0)) / tolerance


def _outer_names(graph: onnx.GraphProto, needed: Iterable[str]) -> list[str]:
    names = [name for node in graph.node for name in node.input]
    for node in graph.node:
        for inner in subgraphs(node):
            names.extend(_outer_names(inner, needed))
    own = value_names(graph)
    return [name for name in names if name not in own and name not in set(needed)]


def without_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 where its inputs and outputs are bfloat16, which numpy has not."""
    ports = (*model.graph.input, *model.graph.output)
    if all(port.type.tensor_type.elem_type != TensorProto.BFLOAT16 for port in ports):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    for is_input, values in ((True, result.graph.input), (False, result.graph.output)):
        for value in values:
            if value.type.tensor_type.elem_type != TensorProto.BFLOAT16:
                continue
            narrow = f"{value.name}.bfloat16"
            for node in nodes:
                names = node.input if is_input else node.output
                names[:] = [narrow if name == value.name else name for name in names]
            ends = ([value.name], [narrow]) if is_input else ([narrow], [value.name])
            to = TensorProto.BFLOAT16 if is_input else TensorProto.FLOAT
            nodes.insert(0 if is_input else len(nodes), helper.make_node("Cast", *ends, to=to))
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _said(error: Exception) -> LossError:
    text = " ".join(str(error).split())
    return LossError(f"ONNX Runtime {runtime().__version__} says: {text}")
