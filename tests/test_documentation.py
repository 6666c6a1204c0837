# SPDX-License-Identifier: MIT
"""What a model says of itself to whoever opens it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx
import pytest

import onnxloss
from onnxloss.functions import build_function
from onnxloss.onnxscript_defs import CATALOGUE, LossSpec, OpSpec
from onnxloss.view import operator_types

OPS = [pytest.param(spec, op, id=op.name) for spec in CATALOGUE for op in spec.ops]


@pytest.mark.parametrize(("spec", "op"), OPS)
def test_a_function_carries_formula_ports_sources_and_attributes(
    spec: LossSpec, op: OpSpec
) -> None:
    function = build_function(spec, op, opset=19)
    for text in (op.doc, spec.formula, *spec.edge_cases, *spec.sources):
        assert text in function.doc_string
    for port in (*op.inputs, *op.outputs):
        assert f"`{port.name}` (`{port.type}`, " in function.doc_string
    described = {entry.name: entry for entry in function.attribute_proto}
    assert list(described) == [attribute.name for attribute in op.attributes]
    for attribute in op.attributes:
        entry = described[attribute.name]
        value = onnx.helper.get_attribute_value(entry)
        assert entry.doc_string.startswith(f"{attribute.doc} Expected: {attribute.allowed}.")
        if isinstance(attribute.default, str):
            assert entry.doc_string.endswith(f" Default: {attribute.default}.")
        assert type(attribute.default)(
            value.decode() if isinstance(value, bytes) else value
        ) == pytest.approx(attribute.default)


@pytest.mark.parametrize(("spec", "op"), OPS)
def test_values_of_a_body_are_named_after_what_they_are(spec: LossSpec, op: OpSpec) -> None:
    """`tmp_7` is what onnxscript calls a part of an expression; a name stands once."""
    names = list(_names(build_function(spec, op, opset=19).node))
    assert not [name for name in names if name.startswith("tmp")]
    assert len(names) == len(set(names))


def test_a_node_names_its_source_and_what_it_was_set_to() -> None:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.1)
    (node,) = onnxloss.export(config, logits=("N", 3)).graph.node
    assert node.doc_string == (
        "Cross entropy between softmax(logits) and integer labels.\n"
        "From torch.nn.CrossEntropyLoss.\n"
        "label_smoothing = 0.1"
    )


def test_an_export_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Though Paddle, where it is imported, has the root logger print all information."""
    caplog.set_level(logging.INFO)
    # A number that no function has been built for yet.
    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss", {"z_loss": 0.123456})
    onnxloss.export(config, logits=("N", 3))
    assert not caplog.records


def test_netron_is_told_of_every_operator() -> None:
    told = {entry["name"]: entry for entry in operator_types()}
    assert list(told) == [op.name for spec in CATALOGUE for op in spec.ops]
    for spec in CATALOGUE:
        for op in spec.ops:
            entry = told[op.name]
            assert [made["name"] for made in entry["inputs"]] == [port.name for port in op.inputs]
            assert {made["name"] for made in entry["attributes"]} == {a.name for a in op.attributes}


def _names(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.output
        for attribute in node.attribute:
            yield from _names(attribute.g.node)
