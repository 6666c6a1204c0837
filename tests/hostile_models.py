# SPDX-License-Identifier: MIT
"""Models of one node that no exporter of ours writes, opened and run with the library.

`python -m tests.hostile_models <operator>` prints each case before it runs it, and what became of
it after: a crash is seen by whoever started this, tests/test_hostile_models.py.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from onnxloss.onnxscript_defs import CATALOGUE, DOMAIN, LossSpec, OpSpec
from tests.models import OPSET, node_attributes
from tests.runtime import RUNTIME_ERRORS, make_session

REFUSED = "refused"
RAN = "ran"
# What an attribute of each type must not be, whatever it says: numbers beyond every range, texts
# that are no choice.
INTEGERS = (-(2**63), 2**63 - 1, -(2**31) - 1, 2**32)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1e-45, -1.0, 2.0**126)
STRINGS = ("", "x" * 2**20, "mean\0", "\N{PILE OF POO}", b"\xff\xfe")
# Any of these is a legal ignore_index or seed; z-loss and cap have no upper end.
ANY_INTEGER = ("ignore_index",)
ANY_FACTOR = ("z_loss", "logit_softcap")
EXTREME_SHAPES = (
    (2**40, 0, 2**40),
    (2**33, 0, 2**31),
    (0, 2**40, 2**20),
    (0, 2**40, 2**40),
    (2**40, 2**40, 0),
    (2**62, 0),
    (0, 2**62),
    (0,),
    (1, 0),
)

Case = tuple[str, onnx.ModelProto, dict[str, np.ndarray], bool]


def operators() -> dict[str, tuple[LossSpec, OpSpec]]:
    """Every operator by its name."""
    return {op.name: (spec, op) for spec in CATALOGUE for op in spec.ops}


def feeds_of(op: OpSpec) -> dict[str, np.ndarray]:
    """Well-formed inputs: two rows of three classes."""
    sampled = op.name.startswith("Sampled")
    soft = op.name.startswith("SoftLabel")
    labels = np.full((2, 3), 0.5, np.float32) if soft else np.array([0, 2])
    feeds = {
        "dloss": np.ones((), np.float32),
        "logits": np.arange(6, dtype=np.float32).reshape(2, 3),
        "labels": labels[:, None] if sampled else labels,
        "class_weights": np.ones(3, np.float32),
        "sample_weights": np.ones(2, np.float32),
        "samples": np.array([1]),
        "probabilities": np.full((2, 2), 0.5, np.float32),
    }
    return {port.name: feeds[port.name] for port in op.inputs}


def attributes_of(spec: LossSpec) -> dict[str, Any]:
    """Well-formed attributes."""
    settings: dict[str, Any] = {"reduction": "mean"}
    if "num_samples" in {attribute.name for attribute in spec.attributes}:
        settings["num_samples"] = 1
    return node_attributes(spec, "float32", settings)


def make_model(
    op: OpSpec,
    attributes: list[AttributeProto],
    *,
    inputs: list[str] | None = None,
    outputs: list[str] | None = None,
    feeds: dict[str, np.ndarray],
) -> onnx.ModelProto:
    """The node over inputs whose shapes nobody told the model."""
    inputs = [port.name for port in op.inputs] if inputs is None else inputs
    outputs = [port.name for port in op.outputs] if outputs is None else outputs
    node = helper.make_node(op.name, inputs, outputs, domain=DOMAIN)
    node.attribute.extend(attributes)
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    graph = helper.make_graph(
        [node],
        "hostile",
        [helper.make_tensor_value_info(name, types[name], None) for name in feeds],
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name == "drawn_samples" else TensorProto.FLOAT, None
            )
            for name in outputs
            if name
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def protos(attributes: dict[str, Any]) -> list[AttributeProto]:
    """The attributes as a node holds them."""
    return [helper.make_attribute(name, value) for name, value in attributes.items()]


def broken_attributes(spec: LossSpec) -> Iterator[tuple[str, list[AttributeProto], bool]]:
    """One attribute missing, twice there, of another type, or of a value beyond its set."""
    whole = attributes_of(spec)
    extra = helper.make_attribute("no_such_attribute", 1)
    yield "no attributes", [], True
    yield "unknown attribute", [*protos(whole), extra], False
    for name, value in whole.items():
        rest = protos({key: other for key, other in whole.items() if key != name})
        own = helper.make_attribute(name, value)
        yield f"{name} missing", rest, True
        yield f"{name} twice", [*rest, own, own], False
        nameless = helper.make_attribute(name, value)
        nameless.ClearField("type")
        yield f"{name} of no type", [*rest, nameless], False
        others = (7, 0.5, "text", [1, 2], [0.5], ["a"], helper.make_tensor("t", 1, [1], [1.0]))
        for other in others:
            if type(other) is not type(value):
                wrong = helper.make_attribute(name, other)
                yield f"{name} a {type(other).__name__}", [*rest, wrong], True
        wild = {int: INTEGERS, float: FLOATS, str: STRINGS}[type(value)]
        for number, bad in enumerate(wild):
            legal = name in ANY_INTEGER or (name in ANY_FACTOR and bad == FLOATS[-1])
            proto = helper.make_attribute(name, bad)
            yield f"{name} wild {number}", [*rest, proto], not legal


def cases(spec: LossSpec, op: OpSpec) -> Iterator[Case]:
    """Each case: its name, its model, its feeds, and whether it must be refused."""
    feeds, whole = feeds_of(op), protos(attributes_of(spec))
    names = list(feeds)
    yield "good", make_model(op, whole, feeds=feeds), feeds, False
    for what, attributes, refuse in broken_attributes(spec):
        yield what, make_model(op, attributes, feeds=feeds), feeds, refuse

    required = [port.name for port in op.inputs if not port.optional]
    for name in required:
        inputs = ["" if given == name else given for given in names]
        yield f"{name} left out", make_model(op, whole, inputs=inputs, feeds=feeds), feeds, True
    yield "no inputs", make_model(op, whole, inputs=[], feeds=feeds), feeds, True
    many = [*names, *names, *names]
    yield "too many inputs", make_model(op, whole, inputs=many, feeds=feeds), feeds, True
    outputs = [port.name for port in op.outputs]
    more = [*outputs, "one", "two"]
    yield "too many outputs", make_model(op, whole, outputs=more, feeds=feeds), feeds, True
    first = ["", *outputs[1:]]
    if len(outputs) > 1:
        yield "no first output", make_model(op, whole, outputs=first, feeds=feeds), feeds, False
    for name, array in feeds.items():
        other = {**feeds, name: array.astype(np.int16)}
        yield f"{name} int16", make_model(op, whole, feeds=other), other, True
        for shape in ((), (0,), (1,), (4,), (2, 3, 1), (3, 2), (1,) * 9):
            if shape != array.shape:
                odd = {**feeds, name: np.ones(shape, array.dtype)}
                yield f"{name} {shape}", make_model(op, whole, feeds=odd), odd, name != "logits"
    yield from extreme_cases(spec, op)


def extreme_cases(spec: LossSpec, op: OpSpec) -> Iterator[Case]:
    """Empty tensors whose other sizes multiply beyond 64 bits: a Reshape inside makes them."""
    required = [port.name for port in op.inputs if not port.optional]
    feeds = {name: feeds_of(op)[name] for name in required}
    feeds |= {name: feeds[name].reshape(-1)[:0] for name in ("logits", "labels")}
    for shape, axis in itertools.product(EXTREME_SHAPES, (0, 1)):
        attributes = attributes_of(spec)
        if "axis" in attributes:
            attributes["axis"] = axis
        model = make_model(op, protos(attributes), inputs=required, feeds=feeds)
        label_shape = list(shape)
        if not op.name.startswith("SoftLabel"):
            del label_shape[min(axis, len(shape) - 1)]
        for port, sizes in (("logits", list(shape)), ("labels", label_shape)):
            model.graph.initializer.append(
                helper.make_tensor(f"{port}_shape", TensorProto.INT64, [len(sizes)], sizes)
            )
            model.graph.node[-1].input[required.index(port)] = f"empty_{port}"
            reshape = helper.make_node(
                "Reshape", [port, f"{port}_shape"], [f"empty_{port}"], allowzero=1
            )
            model.graph.node.insert(0, reshape)
        yield f"logits of shape {shape}, axis {axis}", model, feeds, False


def outcome(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> str:
    """What becomes of a case."""
    try:
        session = make_session(model, library=True)
        used = {value.name for value in session.get_inputs()}
        session.run(None, {name: array for name, array in feeds.items() if name in used})
    except (*RUNTIME_ERRORS, ValueError):
        return REFUSED
    return RAN


def main(name: str) -> None:
    """Runs every case of one operator."""
    for case, model, feeds, refuse in cases(*operators()[name]):
        print(f"case: {case}", flush=True)
        found = outcome(model, feeds)
        wrong = found == (RAN if refuse else REFUSED) and (refuse or case == "good")
        print(f"{'wrong' if wrong else 'right'}: {found}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
