# SPDX-License-Identifier: MIT
"""What torch.onnx makes of a module, as a model that ONNX can read."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch

from .errors import expected
from .onnxscript_defs import DOMAIN
from .writer import free_name

_POOLS = (torch.ops.aten.avg_pool2d.default, torch.ops.aten.avg_pool3d.default)
_DIVISOR_OVERRIDE = 6  # its position among their arguments


def model_of(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    """The program's model, its losses with their types and its values under names of their own.

    torch.onnx's optimizer takes the types of custom operators' results away. The exporter names the
    value of an operator after it, even where a parameter or an input has that name, and only the
    optimizer mends it: inputs and initializers keep theirs here.

    Raises:
        LossError: torch.onnx has dropped a setting of an operator.
    """
    _refuse_dropped(program.exported_program.graph_module)
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


def _refuse_dropped(module: torch.fx.GraphModule) -> None:
    graphs = [part.graph for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes if node.target in _POOLS):
        divisor = dict(enumerate(node.args)).get(_DIVISOR_OVERRIDE)
        if divisor is not None:
            reason = "torch.onnx drops it; multiply the mean by the window's size / the divisor"
            name = node.target.overloadpacket.__name__
            raise expected(name, "divisor_override", divisor, "None", reason)
