# SPDX-License-Identifier: MIT
"""What a model says of its losses to whoever opens it: the doc_strings, as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from .onnxscript_defs import TYPES, Attribute, LossSpec, OpSpec, Port

_WIDTH = 60
"""Columns of a node's description that Netron's sidebar shows without scrolling."""


def function_doc(spec: LossSpec, op: OpSpec) -> str:
    """The meaning of an operator: formula, inputs, outputs, edge cases and sources."""
    used = {port.type for port in (*op.inputs, *op.outputs)}
    types = [f"`{name}`: {', '.join(TYPES[name])}" for name in TYPES if name in used]
    return "\n\n".join(
        (
            op.doc,
            f"```\n{spec.formula}\n```",
            f"**Inputs**\n\n{_list(map(_port, op.inputs))}",
            f"**Outputs**\n\n{_list(map(_port, op.outputs))}",
            f"**Types**\n\n{_list(types)}",
            f"**Edge cases**\n\n{_list(spec.edge_cases)}",
            f"**Sources**\n\n{_list(spec.sources)}",
        )
    )


def node_doc(op: OpSpec, source: str, attributes: Mapping[str, Any]) -> str:
    """What one node computes: the operator, the API that it came from and what it was set to."""
    set_to = [
        f"{attribute.name} = {_shown(attributes[attribute.name])}"
        for attribute in op.attributes
        if not attribute.derived and attributes[attribute.name] != attribute.default
    ]
    return "\n".join((textwrap.fill(op.doc, _WIDTH), f"From {source}.", *set_to))


def attribute_doc(attribute: Attribute) -> str:
    """What an attribute means and may be."""
    default = "" if attribute.derived else f" Default: {_shown(attribute.default)}."
    return f"{attribute.doc} Expected: {attribute.allowed}.{default}"


def _shown(value: Any) -> str:
    """A value as it was given: an attribute holds 32 bits of a float."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _port(port: Port) -> str:
    option = ", optional" if port.optional else ""
    shape = f"`{port.shape}`" if port.shape.startswith("[") else port.shape
    return f"`{port.name}` (`{port.type}`, {shape}{option}): {port.doc}"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"* {item}" for item in items)
