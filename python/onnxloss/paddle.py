# SPDX-License-Identifier: MIT
"""paddle.onnx.export with this project's losses behind the layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import onnx
import paddle

from .config import LossConfig
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES
from .errors import LossError, expected
from .export import append_to
from .from_paddle import from_paddle
from .opset import OPSET, check_version
from .paddle_conversion import convert
from .paddle_training import forward_model, load_state, training_step
from .writer import value_info

__all__ = ["export", "forward_model", "load_state", "training_step"]


def export(
    layer: paddle.nn.Layer,
    loss: Any,
    input_spec: Sequence[Any],
    f: str | os.PathLike[str] | None = None,
    *,
    label_spec: paddle.static.InputSpec | None = None,
    opset_version: int = OPSET,
    logits: str | None = None,
    gradient: bool = False,
    inline: bool = False,
    **settings: Any,
) -> onnx.ModelProto:
    """The ONNX model of a layer with its loss behind it.

    The layer goes through paddle2onnx, which aborts the process where it fails: it runs in one of
    its own. The loss does not go through it: paddle2onnx drops or breaks most of its settings.

    Args:
        layer: The layer that computes the logits, in inference mode: `layer.eval()`. A layer in
            training mode will do if it has no dropout and no batch normalization.
        loss: The loss, as `from_paddle` takes it, or a `LossConfig`.
        input_spec: The layer's inputs, as for `paddle.onnx.export`.
        f: The file to write, if any.
        label_spec: Name, shape and dtype of the labels. By default "labels", with the shape that
            the logits say, and int64 or for probabilities the logits' dtype.
        opset_version: Version of ai.onnx, 19 or newer as far as paddle2onnx goes.
        logits: Name of the output that holds the logits; by default the only output.
        gradient: Adds the input `dloss` and the output `dlogits`.
        inline: Writes the loss's nodes in place of the call of a function.
        **settings: As for `from_paddle`.

    Returns:
        A checked model: the layer's inputs and the labels; the layer's outputs and `loss`.

    Raises:
        LossError: paddle2onnx is not installed or failed; the layer has a dropout or a batch
            normalization in training mode; or the loss does not fit the layer.

    Example:
        >>> spec = [paddle.static.InputSpec([None, 4], "float32", "x")]
        >>> model = onnxloss.paddle.export(layer, paddle.nn.CrossEntropyLoss(), spec)
    """
    check_version("paddle.export", opset_version)
    config = loss if isinstance(loss, LossConfig) else from_paddle(loss, **settings)
    if config is loss and settings:
        raise LossError(
            f"paddle.export: {', '.join(settings)} is given beside a LossConfig; "
            "set it where the configuration is made."
        )
    model, unused_means = convert("paddle.export", layer, input_spec, opset_version)
    if unused_means:
        raise LossError(
            "paddle.export: a batch normalization of the layer takes the statistics of its batch "
            f"in the place of {', '.join(sorted(unused_means))}, and paddle2onnx writes it as in "
            "inference; expected none in training mode: call layer.eval()."
        )
    labels, dtype = "labels", None
    if label_spec is not None:
        labels = label_spec.name or labels
        # Paddle writes an unknown size as -1.
        shape = tuple(None if size in (None, -1) else int(size) for size in label_spec.shape)
        dtype = _dtype_name(label_spec.dtype)
        if labels in {value.name for value in model.graph.input}:
            raise expected("paddle.export", "name of label_spec", labels, "a name not taken")
        model.graph.input.append(value_info(labels, dtype, shape))
    model = append_to(
        model,
        config,
        logits=logits,
        labels=labels,
        label_dtype=dtype,
        gradient=gradient,
        inline=inline,
    )
    if f is not None:
        onnx.save(model, f)
    return model


def _dtype_name(dtype: Any) -> str:
    """`int64`, for "int64" or `paddle.int64`."""
    name = str(dtype).removeprefix("paddle.")
    if name not in (*FLOAT_DTYPES, *LABEL_DTYPES):
        allowed = ", ".join((*FLOAT_DTYPES, *LABEL_DTYPES))
        raise expected("paddle.export", "dtype of label_spec", name, f"one of {allowed}")
    return name
