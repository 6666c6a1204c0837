# SPDX-License-Identifier: MIT
"""This project's losses in ONNX Runtime training 1.19.2, as blocks of its onnxblock.

Importing this module makes `onnxruntime.training` usable where PyTorch is not installed, and
`onnx.IR_VERSION` at most 10, the newest that 1.19.2 reads: it stamps the optimizer's model with it.
Import it before `onnxruntime.training`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from ..config import LossConfig, check_config
from ..dtypes import name_of
from ..errors import LossError, expected
from ..export import append_to, export, shape_of
from ..layout import Ports, fitted
from ..opset import with_opset
from ..writer import free_name, value_names
from .gradient_graph import TRAINING_DOMAIN, Gradient, NodeDefinition, fold_loss

MAX_IR_VERSION = int(onnx.Version.IR_VERSION_2024_3_25)
"""10."""
MAX_OPSET = 21


def _prepare_runtime() -> None:
    """Lets onnxruntime.training be imported, and write models that it reads itself."""
    found = importlib.util.find_spec("onnxruntime")
    folders = found.submodule_search_locations if found else None
    if not any(Path(folder, "training", "onnxblock").is_dir() for folder in folders or ()):
        raise LossError(
            "onnxloss.training.ort: onnxruntime.training is not there; expected "
            "onnxruntime-training-cpu 1.19.2 in the place of onnxruntime."
        )
    if importlib.util.find_spec("torch") is None:
        # Its package imports both, which need PyTorch; nothing else in it does.
        for name in ("amp", "optim"):
            full = f"onnxruntime.training.{name}"
            sys.modules.setdefault(full, types.ModuleType(full))
    if onnx.IR_VERSION > MAX_IR_VERSION:
        onnx.IR_VERSION = onnx.Version.IR_VERSION_2024_3_25


_prepare_runtime()
from onnxruntime.capi import _pybind_state  # noqa: E402
from onnxruntime.training import onnxblock  # noqa: E402


class Loss(onnxblock.Block):  # type: ignore[misc]  # onnxruntime has no types
    """A loss for `onnxruntime.training.artifacts.generate_artifacts(loss=...)`.

    The loss is one node, whose function calls `onnxloss::<Op>`; its gradient in the training model
    is the node `onnxloss::<Op>Grad`. Modules run both through their functions, and with the library
    registered in their session options by the fused kernels.

    Every configuration is taken. A loss with the reduction "none" is one to build on, in a block
    that reduces it: training begins at a scalar.

    Args:
        config: The loss and its settings, as `from_torch` makes it.
        labels: Name of the labels' input. An input of this name that is there already is used, for
            labels of another shape than the logits say.
        label_dtype: As for `onnxloss.export`.
        sample_weights: Name of the input of sample weights, for losses that take them.

    Raises:
        LossError: When the block is built: the forward model has another IR or opset than ONNX
            Runtime 1.19.2 reads, or the loss does not fit it.

    Example:
        >>> loss = onnxloss.training.ort.Loss(onnxloss.from_torch("torch.nn.CrossEntropyLoss"))
        >>> artifacts.generate_artifacts(model, requires_grad=names, loss=loss,
        ...                              optimizer=artifacts.OptimType.AdamW)
        >>> options = onnxruntime.SessionOptions()
        >>> onnxloss.register(options)
        >>> module = Module("training_model.onnx", state, "eval_model.onnx",
        ...                 session_options=options)
    """

    def __init__(
        self,
        config: LossConfig,
        *,
        labels: str = "labels",
        label_dtype: str | None = None,
        sample_weights: str | None = None,
    ) -> None:
        super().__init__()
        check_config("Loss", config)
        self._config = config
        self._labels = labels
        self._label_dtype = label_dtype
        self._sample_weights = sample_weights

    def build(self, logits: str, labels: str | None = None) -> str:
        """Puts the loss behind the output `logits` of the model that is being built.

        Args:
            logits: Name of the output that holds the logits.
            labels: Name of the labels' input, in place of the block's.

        Returns:
            The name of the loss.
        """
        _check_versions(self.base)
        labels, weights = labels or self._labels, self._sample_weights
        ports = Ports(
            logits, labels, weights or "", loss=free_name("loss", value_names(self.base.graph))
        )
        config = self._config
        drawn = [f"drawn_{port}" for port in config.spec.drawn if config.samples == "drawn"]
        forward = with_opset(self.base, "training.ort.Loss")
        model = append_to(
            forward,
            config,
            logits=logits,
            labels=labels,
            label_dtype=self._label_dtype,
            sample_weights=weights,
            loss=ports.loss,
            outputs=("loss", *drawn),
        )
        values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
        shapes = {name: shape_of(config, values[name]) for name in (logits, labels)}
        config = fitted(config, shapes[logits], shapes[labels], _dtype_of(values[labels]))
        both = export(
            config,
            logits=shapes[logits],
            labels=shapes[labels],
            sample_weights=shape_of(config, values[weights]) if weights else None,
            dtype=_dtype_of(values[logits]),
            label_dtype=_dtype_of(values[labels]),
            gradient=True,
        )
        _register(fold_loss(model, forward, config, both, _names(both, ports, drawn)))
        _overwrite(self.base, model)
        return ports.loss


def _overwrite(base: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Copies the model, and keeps the graph's object: a block around this one may hold it."""
    base.graph.CopyFrom(model.graph)
    base.ir_version = model.ir_version
    for kept, made in (
        (base.opset_import, model.opset_import),
        (base.functions, model.functions),
        (base.metadata_props, model.metadata_props),
    ):
        del kept[:]
        kept.extend(made)


def _names(both: onnx.ModelProto, ports: Ports, drawn: Sequence[str]) -> dict[str, str]:
    """What the inputs and outputs of a loss by itself are called behind a model."""
    values = [value.name for value in (*both.graph.input, *both.graph.output)]
    names = {name: ports.other(name) for name in (*values, *drawn)}
    return names | {
        name: getattr(ports, name) for name in ("logits", "labels", "sample_weights", "loss")
    }


def _dtype_of(value: onnx.ValueInfoProto) -> str:
    return name_of(value.type.tensor_type.elem_type)


def _check_versions(model: onnx.ModelProto) -> None:
    if model.ir_version > MAX_IR_VERSION:
        raise expected(
            "Loss", "ir_version of the model", model.ir_version, f"at most {MAX_IR_VERSION}"
        )
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > MAX_OPSET:
            raise expected(
                "Loss", "ai.onnx version of the model", opset.version, f"at most {MAX_OPSET}"
            )


def _register(gradient: Gradient) -> None:
    """Tells ONNX Runtime the gradient; again is no harm, for the same name has the same nodes."""
    nodes = [_node_definition(node) for node in gradient.nodes]
    _pybind_state.register_gradient_definition(f"{TRAINING_DOMAIN}::{gradient.op_type}", nodes)


def _node_definition(node: NodeDefinition) -> Any:
    made = _pybind_state.GradientNodeDefinition()
    made.domain, made.op_type = node.domain, node.op_type
    made.inputs, made.outputs = list(node.inputs), list(node.outputs)
    attributes = []
    for name, value, dtype in node.attributes:
        attribute = _pybind_state.GradientNodeAttributeDefinition()
        attribute.name, attribute.value_json = name, json.dumps(value)
        attribute.dtype, attribute.is_tensor = dtype, False
        attributes.append(attribute)
    made.attributes = attributes
    return made
