# SPDX-License-Identifier: MIT
"""Registers the operators' schemas, so that onnx knows names, types, shapes and attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import TensorProto

from .onnxscript_defs import CATALOGUE, DOMAIN, OPSET_VERSION, TYPES, LossSpec, OpSpec, Port

_ONNX_TYPES = {"float32": "tensor(float)", "float64": "tensor(double)"}


def register_schemas() -> None:
    """Makes every operator of the catalogue known to onnx; a second call changes nothing."""
    for spec in CATALOGUE:
        for op in spec.ops:
            if not onnx.defs.has(op.name, domain=DOMAIN):
                onnx.defs.register_schema(schema_of(spec, op))


def schema_of(spec: LossSpec, op: OpSpec) -> onnx.defs.OpSchema:
    """The schema of one of the loss's operators."""
    schema = onnx.defs.OpSchema
    used = {port.type for port in (*op.inputs, *op.outputs)}
    made = schema(
        op.name,
        DOMAIN,
        OPSET_VERSION,
        f"{op.doc}\n\n{spec.formula}",
        inputs=[_parameter(port) for port in op.inputs],
        outputs=[_parameter(port) for port in op.outputs],
        type_constraints=[
            (variable, [_ONNX_TYPES.get(name, f"tensor({name})") for name in names], "")
            for variable, names in TYPES.items()
            if variable in used
        ],
        attributes=[
            schema.Attribute(
                attribute.name,
                onnx.helper.make_attribute(attribute.name, attribute.default),
                attribute.doc,
            )
            for attribute in op.attributes
        ],
    )
    made.set_type_and_shape_inference_function(_inference(op))
    return made


def _inference(op: OpSpec) -> Callable[[Any], None]:
    """Types and shapes of the outputs: onnx asks a schema, and not the function beside it."""
    defaults = {attribute.name: attribute.default for attribute in op.attributes}
    at_logits = [port.name for port in op.inputs].index("logits")

    def setting(context: Any, name: str) -> Any:
        given = context.get_attribute(name)
        value = defaults.get(name) if given is None else onnx.helper.get_attribute_value(given)
        return value.decode() if isinstance(value, bytes) else value

    def infer(context: Any) -> None:
        logits = context.get_input_type(at_logits)
        if logits is None or not logits.tensor_type.elem_type:
            return
        reduced = setting(context, "reduction") != "none"
        for index, port in enumerate(op.outputs[: context.get_num_outputs()]):
            output = onnx.TypeProto()
            output.tensor_type.elem_type = _element_type(port, logits.tensor_type.elem_type)
            if logits.tensor_type.HasField("shape"):
                dims = list(logits.tensor_type.shape.dim)
                shape = _shape(port, dims, setting(context, "axis"), reduced)
                if shape is not None:
                    output.tensor_type.shape.dim.extend(shape)
                    output.tensor_type.shape.SetInParent()
            context.set_output_type(index, output)

    return infer


def _element_type(port: Port, logits: int) -> int:
    if port.type == "T":
        return logits
    if port.type == "S":
        return TensorProto.DOUBLE if logits == TensorProto.DOUBLE else TensorProto.FLOAT
    return TensorProto.INT64


def _shape(port: Port, logits: Sequence[Any], axis: int | None, reduced: bool) -> list[Any] | None:
    """The port's shape where its SPEC derives it from that of the logits."""
    if port.shape in ("as logits", "as labels"):  # labels with a gradient are probabilities
        return list(logits)
    if not port.shape.startswith("logits without axis"):
        return None
    if reduced and port.shape.endswith("[] if reduced"):
        return []
    axis = 1 if axis is None else axis  # the sampled loss has no other
    if not -len(logits) <= axis < len(logits):
        return None
    return [dim for at, dim in enumerate(logits) if at != axis % len(logits)]


def _parameter(port: Port) -> onnx.defs.OpSchema.FormalParameter:
    option = onnx.defs.OpSchema.FormalParameterOption
    return onnx.defs.OpSchema.FormalParameter(
        port.name,
        port.type,
        port.doc,
        param_option=option.Optional if port.optional else option.Single,
    )
