# SPDX-License-Identifier: MIT
"""torch.onnx.export with this project's losses where a module calls cross_entropy."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset19 as op
from onnxscript.values import Op, Opset

from .calls import attributes_of, called_or_written_out, node_attributes
from .documentation import node_doc
from .dtypes import FLOAT_DTYPES, name_of, onnx_type, promoted, stash_dtype
from .errors import LossError, expected, root_of
from .from_torch import from_torch
from .layout import Shape, layout
from .onnxscript_defs import CATALOGUE, DOMAIN, OPSET_VERSION
from .opset import check_version
from .quiet import quiet
from .schema import schema_of
from .torch_program import model_of
from .torch_training import forward_model, load_state, training_step
from .writer import nodes_of, subgraphs

__all__ = ["export", "forward_model", "load_state", "training_step"]

_API = "torch.nn.functional.cross_entropy"
_REDUCTIONS = ("none", "mean", "sum")
_INTEGERS = ("int", "uint", "bool")


def export(
    module: torch.nn.Module,
    args: Sequence[Any] | torch.Tensor = (),
    f: str | os.PathLike[str] | None = None,
    *,
    opset_version: int = 20,
    optimize: bool = False,
    external_data: bool = False,
    **options: Any,
) -> onnx.ModelProto:
    """The ONNX model of a module that calls `cross_entropy` or `CrossEntropyLoss` inside.

    It is `torch.onnx.export(..., dynamo=True)`, but for the loss: that becomes a node of this
    project with its function, for every setting, those included that torch.onnx drops or breaks
    (label smoothing, probabilities, bfloat16, empty and unbatched inputs).

    Args:
        module: The module, as for `torch.onnx.export`.
        args: Its example inputs; a tensor is the only one.
        f: The file to write, if any.
        opset_version: Version of ai.onnx, 19 or newer.
        optimize: Whether torch.onnx optimizes the graph: it merges equal parameters and removes
            the addition of a constant up to 1e-8.
        external_data: Whether the weights stand in a file beside `f`, `<f>.data`.
        **options: Other arguments of `torch.onnx.export`, as `dynamic_shapes`.

    Returns:
        A checked model. Where the module calls no cross entropy there is a warning, and the model
        is PyTorch's own.

    Raises:
        LossError: An opset that is too old, options that this function sets or cannot honour, uint8
            labels, or class weights of another dtype than the logits.
        torch.onnx.OnnxExporterError: PyTorch cannot export the module, or refuses what it computes.

    Example:
        >>> model = onnxloss.torch.export(module, (inputs, labels), "model.onnx")
    """
    check_version("torch.export", opset_version)
    if external_data and f is None:
        raise expected("torch.export", "f", f, "the file that the external data stand beside")
    for option, written in (("export_params", True), ("keep_initializers_as_inputs", False)):
        if options.pop(option, written) is not written:
            reason = "change the model that is returned"
            raise expected("torch.export", option, not written, str(written), reason)
    if "custom_translation_table" in options or options.pop("dynamo", True) is not True:
        raise LossError(
            "torch.export: custom_translation_table or dynamo is given; both are set by this "
            "function: call torch.onnx.export for other translations."
        )
    program = _exported(
        module,
        (args,) if isinstance(args, torch.Tensor) else tuple(args),
        opset_version=opset_version,
        optimize=optimize,
        **options,
    )
    model = model_of(program)
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if written != opset_version:
        allowed = f"one that PyTorch can write: it wrote {written}"
        raise expected("torch.export", "opset_version", opset_version, allowed)
    named = {"input_names": model.graph.input, "output_names": model.graph.output}
    for option, values in named.items():
        names = list(options.get(option) or ())
        if names != [value.name for value in values[: len(names)]]:
            allowed = "one at most for each, that no other value has"
            raise expected("torch.export", option, names, allowed)
    if all(node.domain != DOMAIN for node in nodes_of(model.graph)):
        warnings.warn(
            "torch.export: the module calls no cross_entropy, and the model has no loss of "
            "onnxloss; onnxloss.fuse finds losses that are written out.",
            stacklevel=2,
        )
    _give_functions(model, model.graph)
    onnx.checker.check_model(model)
    if external_data:
        # onnx.save would take the weights out of the model.
        ir.save(ir.from_proto(model), f, external_data=f"{os.path.basename(f)}.data")
    elif f is not None:
        onnx.save(model, f)
    return model


def _exported(
    module: torch.nn.Module, args: Sequence[Any], **options: Any
) -> torch.onnx.ONNXProgram:
    """What torch.onnx.export gives, with nodes of this project for the losses."""
    table = {torch.ops.aten.cross_entropy_loss.default: _cross_entropy_loss}
    # It looks in our function for annotations of onnxscript's own, and for torchvision.
    with quiet("torch.onnx._internal.exporter._registration", level=logging.ERROR):
        try:
            return torch.onnx.export(
                module, args, dynamo=True, custom_translation_table=table, **options
            )
        except torch.onnx.errors.OnnxExporterError as error:
            root = root_of(error)
            if isinstance(root, LossError):
                raise root from error
            if "for index, but got torch.uint8" in str(root):
                allowed = "int64: torch.export takes no other; cast them by .long()"
                raise expected("torch.export", "dtype of the labels", "uint8", allowed) from error
            raise


def _give_functions(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Gives the losses of a graph and of the graphs inside it their functions.

    PyTorch inlines its own functions, also where a module asks for them: there are no others.
    """
    nodes = []
    for node in graph.node:
        for inner in subgraphs(node):
            _give_functions(model, inner)
        nodes += _with_function(model, node)
    del graph.node[:]
    graph.node.extend(nodes)


def _with_function(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.domain != DOMAIN:
        return [node]
    spec = next(spec for spec in CATALOGUE if spec.name == node.op_type)
    node.doc_string = node_doc(spec.forward, _API, attributes_of(node))
    return called_or_written_out(model, spec, node)


def _cross_entropy_loss(
    self: ir.Value,
    target: ir.Value,
    weight: ir.Value | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> ir.Value:
    """aten::cross_entropy_loss; the names are those of its schema."""
    dtype, label_dtype = name_of(int(self.dtype)), name_of(int(target.dtype))
    probabilities = label_dtype in FLOAT_DTYPES
    config = from_torch(
        _API,
        target="probabilities" if probabilities else "indices",
        reduction=_REDUCTIONS[reduction],
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    if weight is not None:
        given = name_of(int(weight.dtype))
        if probabilities and given in FLOAT_DTYPES:
            dtype = promoted(dtype, given)
        elif given != dtype and not (probabilities and given.startswith(_INTEGERS)):
            raise expected(config.op, "dtype of weight", given, f"{dtype}, that of the logits")
    at = layout(config, _shape(self), _shape(target), dtype=dtype, label_dtype=label_dtype)
    stash = stash_dtype(at.compute)
    logits = _cast(self, at.compute)
    labels = _cast(target, at.compute if probabilities else label_dtype.replace("uint8", "int64"))
    inputs = [logits, labels] + ([] if weight is None else [_cast(weight, stash)])

    loss = config.spec.forward
    # The exporter gives a node every output that its schema has, the optional ones too.
    required = tuple(port for port in loss.outputs if not port.optional)
    schema = schema_of(config.spec, dataclasses.replace(loss, outputs=required))
    operator = Op(Opset(DOMAIN, OPSET_VERSION), loss.name, schema)
    result = operator(*inputs, **node_attributes(config, loss, at))
    result.dtype = ir.DataType(onnx_type(stash))
    return _cast(result, at.compute)


def _cast(value: ir.Value, dtype: str) -> ir.Value:
    wanted = onnx_type(dtype)
    return value if int(value.dtype) == wanted else op.Cast(value, to=wanted)


def _shape(value: ir.Value) -> Shape:
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
