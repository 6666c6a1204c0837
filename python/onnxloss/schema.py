# SPDX-License-Identifier: MIT
"""Registers the operators' schemas, so that onnx.checker knows names, types and attributes."""

from __future__ import annotations

import onnx

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
    return schema(
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


def _parameter(port: Port) -> onnx.defs.OpSchema.FormalParameter:
    option = onnx.defs.OpSchema.FormalParameterOption
    return onnx.defs.OpSchema.FormalParameter(
        port.name,
        port.type,
        port.doc,
        param_option=option.Optional if port.optional else option.Single,
    )
