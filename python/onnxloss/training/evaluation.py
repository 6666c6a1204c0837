# SPDX-License-Identifier: MIT
"""The loss of a training step's model on other data, without gradient or update."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..errors import expected
from ..writer import free_name, subgraphs, value_names
from .parameters import replace_entries, with_inference_mode, with_master_weights
from .step import LOSS, METADATA_KEY, metadata, new_name, without_functions
from .values import NUMPY_TYPES, Value, bind_array, check_batch, inputs_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def without_forward_outputs(step: onnx.ModelProto) -> onnx.ModelProto:
    """A step that gives the loss and the state only: no other output is copied out each time."""
    inputs = {value.name for value in step.graph.input}
    kept = {LOSS, *map(new_name, inputs)}
    result = onnx.ModelProto()
    result.CopyFrom(step)
    outputs = [value for value in step.graph.output if value.name in kept]
    replace_entries(result.graph, "output", outputs)
    return result


def evaluation_model(
    step: onnx.ModelProto, forward: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """A model that computes the loss, with the state as inputs.

    Normalizations use their running statistics.

    Args:
        step: The training step.
        forward: The forward model; without it what the step does before the loss is taken.

    Raises:
        LossError: The forward model has no logits of the step's name.
    """
    settings = json.loads(metadata(step)[METADATA_KEY])
    result = onnx.ModelProto()
    result.CopyFrom(step)
    graph = result.graph
    nodes = _before(step.graph, LOSS, until=None if forward is None else settings["logits"])
    if forward is not None:
        own = _prepared(forward, settings, result)
        if settings["logits"] not in value_names(own):
            raise expected("Trainer.evaluate", "forward model", own.name, settings["logits"])
        _rename(nodes, value_names(own) - {settings["logits"]})
        nodes = [*own.node, *nodes]
        known = {tensor.name for tensor in own.initializer}
        added = [tensor for tensor in graph.initializer if tensor.name not in known]
        replace_entries(graph, "initializer", [*own.initializer, *added])
    replace_entries(graph, "node", nodes)
    replace_entries(graph, "output", [value for value in step.graph.output if value.name == LOSS])
    with_inference_mode(graph)
    read = {name for node in graph.node for name in _reads(node)}
    for field in ("input", "initializer"):
        replace_entries(
            graph, field, [entry for entry in getattr(graph, field) if entry.name in read]
        )
    onnx.checker.check_model(result)
    return result


def _prepared(
    forward: onnx.ModelProto, settings: Mapping[str, Any], step: onnx.ModelProto
) -> onnx.GraphProto:
    """The forward model's graph in the step's version, with its state taken out."""
    version = next(entry.version for entry in step.opset_import if entry.domain in ("", "ai.onnx"))
    model = without_functions(forward)
    if all(entry.version != version for entry in model.opset_import):
        model = onnx.version_converter.convert_version(model, version)
    states = {*settings["parameters"], *settings["buffers"]}
    trained = [t for t in model.graph.initializer if t.name in settings["parameters"]]
    with_master_weights(model.graph, trained)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in states]
    replace_entries(model.graph, "initializer", kept)
    return model.graph


def _before(graph: onnx.GraphProto, result: str, until: str | None) -> list[onnx.NodeProto]:
    """Copies of the nodes that compute a value, from another value on."""
    needed, nodes = {result}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output) and until not in node.output:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed |= _reads(node) - {until}
    return nodes[::-1]


def _rename(nodes: Iterable[onnx.NodeProto], taken: set[str]) -> None:
    """Gives the results of nodes names that are free."""
    names: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        for index, name in enumerate(node.output):
            if name and name != LOSS:
                node.output[index] = names[name] = free_name(name, taken)


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, the values that its subgraphs capture included."""
    inner = (name for graph in subgraphs(node) for n in graph.node for name in _reads(n))
    return {name for name in (*node.input, *inner) if name}


class Evaluator:
    """A session of an evaluation model."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs = inputs_of(session.get_inputs())
        self._loss = Value(np.zeros((), NUMPY_TYPES[session.get_outputs()[0].type]))

    def loss(self, values: Mapping[str, Value], batch: Mapping[str, np.ndarray]) -> float:
        """The loss of a batch with a state.

        Raises:
            LossError: An input is missing, or of another dtype or shape.
        """
        check_batch("Trainer.evaluate", batch)
        binding = self._session.io_binding()
        binding.bind_ortvalue_output(LOSS, self._loss.ort)
        arrays = {}
        for name, wanted in self._inputs.items():
            if name in values:
                binding.bind_ortvalue_input(name, values[name].ort)
            elif name in batch:
                arrays[name] = np.asarray(batch[name], order="C")
                wanted.check("Trainer.evaluate", name, arrays[name])
                bind_array(binding, name, arrays[name])
            else:
                allowed = f"{sorted(self._inputs.keys() - values.keys())}"
                raise expected("Trainer.evaluate", "batch", list(batch), allowed)
        self._session.run_with_iobinding(binding)
        return float(self._loss.numpy())
