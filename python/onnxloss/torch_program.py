# SPDX-License-Identifier: MIT
"""What torch.onnx makes of a module, as a model that ONNX can read."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch

from .onnxscript_defs import DOMAIN
from .writer import free_name


def model_of(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    """The program's model, its losses with their types and its values under names of their own.

    torch.onnx's optimizer takes the types of custom operators' results away. The exporter names the
    value of an operator after it, even where a parameter or an input has that name, and only the
    optimizer mends it: inputs and initializers keep theirs here.
    """
    graphs = list(program.model.graphs())
    for node in program.model.graph.all_nodes():
        if node.domain == DOMAIN:
            node.outputs[0].dtype = ir.DataType(node.attributes["stash_type"].as_int())
        elif node.op_type == "Identity" and node.outputs[0].type is None:  # an output twice
            node.outputs[0].dtype = node.inputs[0].dtype
    given = [value for g in graphs for value in (*g.inputs, *g.initializers.values())]
    made = [value for graph in graphs for node in graph for value in node.outputs]
    outputs = [value for graph in graphs for value in graph.outputs]
    taken: set[str] = set()
    for value in dict.fromkeys((*given, *outputs, *made)):
        if value.name:
            value.name = free_name(value.name, taken)
    return program.model_proto
