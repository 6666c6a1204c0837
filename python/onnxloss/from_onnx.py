# SPDX-License-Identifier: MIT
"""ONNX's own SoftmaxCrossEntropyLoss as a LossConfig."""

from __future__ import annotations

import re
from typing import Any

import onnx

from .apis import beyond, completed
from .config import NO_IGNORED_LABEL, LossConfig
from .errors import LossError, expected

_NAME = "SoftmaxCrossEntropyLoss"
_SPELLINGS = re.compile(rf"(ai\.onnx(\.|::))?{_NAME}(-1[23])?")
SETTINGS: dict[str, Any] = {"weights": None, "ignore_index": None, "reduction": "mean"}
"""The operator's optional input and its attributes, with what ONNX takes where they are absent."""


def from_onnx(
    loss: str | onnx.NodeProto,
    *,
    z_loss: float = 0.0,
    logit_softcap: float = 0.0,
    **settings: Any,
) -> LossConfig:
    """The configuration of ai.onnx's SoftmaxCrossEntropyLoss, versions 12 and 13.

    Without `ignore_index` no label is ignored: the operator has no default of -100. Its second
    output is the output "log_prob" of `export`.

    Args:
        loss: "SoftmaxCrossEntropyLoss", also written "ai.onnx.SoftmaxCrossEntropyLoss-13"; or a
            node, whose attributes are read.
        z_loss: Factor of lse^2 that is added to each position's loss; beyond ai.onnx.
        logit_softcap: Above 0, logits x become cap * tanh(x / cap) first; beyond ai.onnx.
        **settings: weights (one for each class: what the third input holds), and beside a name
            ignore_index and reduction ("mean", "sum" or "none").

    Returns:
        The configuration. Class axis 1; the loss has the logits' dtype.

    Raises:
        LossError: A loss or setting that is not known. A label outside [0, C), a negative one
            too, is an error at run time, where runtimes count -1 from the end.

    Example:
        >>> config = onnxloss.from_onnx("SoftmaxCrossEntropyLoss", ignore_index=255)
        >>> config.attributes["reduction"]
        'mean'
    """
    if isinstance(loss, onnx.NodeProto):
        settings = _settings_of(loss, settings)
        name = f"{loss.domain}.{loss.op_type}" if loss.domain else loss.op_type
    else:
        name = loss
    if not isinstance(name, str) or not _SPELLINGS.fullmatch(name):
        raise expected("from_onnx", "loss", name, f'"{_NAME}" or a node of that operator')
    values = completed("from_onnx", _NAME, SETTINGS, settings)
    ignore_index = values["ignore_index"]
    weights = values["weights"]
    config = LossConfig(
        _NAME,
        {
            "axis": 1,
            "ignore_index": NO_IGNORED_LABEL if ignore_index is None else ignore_index,
            "reduction": values["reduction"],
        },
        class_weights=onnx.numpy_helper.to_array(weights)
        if isinstance(weights, onnx.TensorProto)
        else weights,
        refused={
            "unbatched logits": "ai.onnx's operator takes no others",
            "no positions": "ai.onnx's operator fails without",
            "uint8 labels": "ai.onnx's operator takes no others",
        },
        source=f"ai.onnx.{_NAME}",
    )
    return beyond(config, z_loss, logit_softcap)


def _settings_of(node: onnx.NodeProto, settings: dict[str, Any]) -> dict[str, Any]:
    """The node's attributes, and the settings that stand for its inputs."""
    for entry in node.attribute:
        if entry.ref_attr_name:
            raise LossError(
                f"from_onnx: {entry.name} is that of the function in which the node stands, "
                f'"{entry.ref_attr_name}"; expected its value.'
            )
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    for setting in settings:
        if setting != "weights":
            raise LossError(
                f"from_onnx: {setting} is given beside a node; expected it as its attribute."
            )
    weighted = len(node.input) > 2 and bool(node.input[2])
    if weighted != (settings.get("weights") is not None):
        wanted = f'the values of "{node.input[2]}"' if weighted else "none, as the node has none"
        raise expected("from_onnx", "weights", settings.get("weights"), wanted)
    for name, value in given.items():
        given[name] = value.decode() if isinstance(value, bytes) else value
    return {**given, **settings}
