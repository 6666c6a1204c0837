# SPDX-License-Identifier: MIT
"""What torch.onnx makes of a module, as a model that ONNX can read."""

from __future__ import annotations

import onnx
import torch

from .writer import free_name


def model_of(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    """The program's model, under names that are unique.

    torch.onnx names the value of an operator after it, even where a parameter or an input has that
    name; only its optimizer mends it. Inputs and initializers keep theirs here.
    """
    graphs = list(program.model.graphs())
    given = [value for g in graphs for value in (*g.inputs, *g.initializers.values())]
    made = [value for graph in graphs for node in graph for value in node.outputs]
    outputs = [value for graph in graphs for value in graph.outputs]
    taken: set[str] = set()
    for value in dict.fromkeys((*given, *outputs, *made)):
        if value.name:
            value.name = free_name(value.name, taken)
    return program.model_proto
