# SPDX-License-Identifier: MIT
"""tf2onnx with this project's losses behind a TensorFlow or Keras model."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import onnx
import tensorflow as tf
import tf2onnx

from .config import LossConfig
from .errors import LossError, check_type, expected
from .export import append_to
from .from_tf import from_tf
from .tf_losses import CATEGORICAL, SPARSE_CATEGORICAL

_OPSET = 18
"""The newest version of ai.onnx that tf2onnx 1.17 writes; `append_to` brings it to ours."""


def export(
    model: Callable[..., Any],
    loss: Any,
    input_signature: Sequence[tf.TensorSpec] | None = None,
    f: str | os.PathLike[str] | None = None,
    *,
    output: int = 0,
    labels: str = "labels",
    label_dtype: str | None = None,
    sample_weights: str | None = None,
    gradient: bool = False,
    inline: bool = False,
    **settings: Any,
) -> onnx.ModelProto:
    """The ONNX model of a forward model with its loss behind it.

    tf2onnx converts the forward model; the loss is not traced but written by this project, with
    the numbers that TensorFlow has where tf2onnx's own differ (sparse losses of logits that lie
    100 apart) and with a gradient, which tf2onnx cannot convert.

    A Keras loss of a Keras model that ends in a softmax or sigmoid stands behind its input,
    whatever `from_logits` is: Keras computes it so, without clipping. `dlogits` is the gradient by
    that. With `ignore_class`, or in another dtype than the model's, Keras computes on the output,
    as `from_logits` says.

    A Keras loss object leaves out what the mask on an output masks, as `Masking` and
    `Embedding(mask_zero=True)` make it. Ours would count it, so that the two are refused together.
    The outputs of a `tf.function` have no mask, nor in Keras.

    Args:
        model: A `keras.Model`, or a function of tensors, which may be a `tf.function`.
        loss: What `from_tf` takes, or a configuration.
        input_signature: The model's inputs; of a functional or sequential Keras model its own by
            default. For one that takes a dict they have the names and the order of `model.inputs`.
        f: The file to write, if any.
        output: Which of the model's outputs holds the logits, or the probabilities of a loss with
            `from_logits=False`.
        labels: Name of the labels' input.
        label_dtype: Dtype of the labels; as for `onnxloss.export`.
        sample_weights: Name of an input of sample weights, for losses that take them.
        gradient: Adds the input `dloss` and the output `dlogits`.
        inline: Writes the function's nodes in place of the call.
        **settings: The loss's own settings, beside its name; as for `from_tf`.

    Returns:
        A checked model: the forward model's inputs and outputs, then the loss's.

    Raises:
        LossError: A loss that is not known, or a model that tf2onnx cannot convert.

    Example:
        >>> model = onnxloss.tf.export(
        ...     keras_model, keras.losses.CategoricalCrossentropy(from_logits=True)
        ... )
    """
    if isinstance(loss, LossConfig):
        if settings:
            raise LossError(f"tf.export: {', '.join(settings)} is given beside a configuration.")
        config = loss
    else:
        config = from_tf(loss, **settings)
    forward, scored = _converted(model, input_signature, output, config)
    count = len(forward.graph.output) - scored
    if not isinstance(output, int) or not 0 <= output < count:
        raise expected("tf.export", "output", output, f"a number in [0, {count}), one of them")
    if scored:
        if config.attributes["from_logits"] == 1:
            warnings.warn(
                "tf.export: the model ends in a softmax or sigmoid, but from_logits is True; Keras "
                "takes its input for the logits, and so do we.",
                stacklevel=2,
            )
        # The same shape, but with other names of its free sizes.
        forward.graph.output[count].type.CopyFrom(forward.graph.output[output].type)
        attributes = {**config.attributes, "from_logits": 1, "normalize": "none", "epsilon": 0.0}
        config = dataclasses.replace(config, attributes=attributes)
    result = append_to(
        forward,
        config,
        logits=forward.graph.output[count if scored else output].name,
        labels=labels,
        label_dtype=label_dtype,
        sample_weights=sample_weights,
        gradient=gradient,
        inline=inline,
    )
    if scored:
        del result.graph.output[count]
    if f is not None:
        onnx.save(result, f)
    return result


def _chosen(outputs: Any, output: int) -> tf.Tensor | None:
    """The output of the loss, if the model has it."""
    flat = [value for value in tf.nest.flatten(outputs) if value is not None]
    return flat[output] if isinstance(output, int) and 0 <= output < len(flat) else None


def _scores(value: tf.Tensor | None, config: LossConfig) -> tf.Tensor | None:
    """What a Keras loss computes on in the place of an output: the input of its activation.

    Where Keras looks, before ONNX's nodes stand for several of TensorFlow's: Keras's softmax and
    sigmoid leave it on their tensor, and a tensor that a softmax gave in a graph has it too. Any
    other tensor made of theirs, by a cast or for ignored classes, has it no more.
    """
    if value is None or not config.source.startswith("keras.") or config.ignores_a_label:
        return None
    if config.compute_dtype not in (None, value.dtype.name):
        return None
    if hasattr(value, "_keras_logits"):
        return value._keras_logits
    return value.op.inputs[0] if value.op.type == "Softmax" else None


def _has_bfloat16(graph: Any) -> bool:
    """Whether a GraphDef computes in bfloat16, in its functions too."""
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    kinds = (kind for body in bodies for node in body for kind in node.attr.values())
    bfloat16 = tf.bfloat16.as_datatype_enum
    return any(bfloat16 in (kind.type, *kind.list.type) for kind in kinds)


def _structure(model: keras.Model, signature: Sequence[tf.TensorSpec]) -> Any:
    """How a Keras model takes its inputs: a functional one as it was made, with lists and dicts."""
    if not hasattr(model, "input"):
        return signature[0] if len(signature) == 1 else list(signature)
    entries = keras.tree.flatten_with_path(model.input)
    in_dicts = any(isinstance(key, str) for path, _ in entries for key in path)
    names = [value.name for _, value in entries]
    given = [getattr(spec, "name", None) for spec in signature]
    # The order of a dict is Keras's own: by position alone inputs could change places.
    if in_dicts and len(names) > 1 and given != names:
        raise expected("tf.export", "input_signature", given, str(names), "as in model.inputs")
    return model.input


def _converted(
    model: Callable[..., Any],
    input_signature: Sequence[tf.TensorSpec] | None,
    output: int,
    config: LossConfig,
) -> tuple[onnx.ModelProto, bool]:
    """The forward model as ONNX, and whether its last output is what `_scores` found.

    Keras models go through a function: `tf2onnx.convert.from_keras` looks for the output names of
    Keras 2.
    """
    if input_signature is None:
        # A model with a call of its own has none, built or not.
        if not isinstance(model, keras.Model) or not hasattr(model, "inputs"):
            raise expected(
                "tf.export",
                "input_signature",
                None,
                "the inputs' tf.TensorSpec, but for functional and built sequential Keras models",
            )
        input_signature = [
            tf.TensorSpec(given.shape, given.dtype, name=given.name) for given in model.inputs
        ]
    allowed = "a list of tf.TensorSpec"
    check_type("tf.export", "input_signature", input_signature, list | tuple, allowed)
    forward: Any = model
    found, masks = [], []
    if not hasattr(model, "get_concrete_function"):
        is_keras = isinstance(model, keras.Model)
        structure = _structure(model, input_signature) if is_keras else None

        def called(*given: tf.Tensor, **named: Any) -> Any:
            if is_keras:
                packed = keras.tree.pack_sequence_as(structure, list(given))
                outputs = model(packed, training=False)
            else:
                outputs = model(*given, **named)
            value = _chosen(outputs, output)
            mask = getattr(value, "_keras_mask", None)
            if mask is not None:
                masks.append(mask)
            scores = _scores(value, config) if is_keras else None
            if scores is None:
                return outputs
            found.append(scores)
            if isinstance(outputs, dict):
                # tf2onnx takes the names from a dict, sorted: this one is the last.
                return {**outputs, f"{max(outputs)}.scores": scores}
            return outputs, scores

        # A function's arguments name the inputs that the signature does not.
        forward = tf.function(called if is_keras else functools.wraps(model)(called))
    try:
        traced = forward.get_concrete_function(*input_signature)  # tf2onnx takes the same
        if masks and config.source in (CATEGORICAL, SPARSE_CATEGORICAL):
            raise LossError(
                f"tf.export: output {output} of the model has a Keras mask; expected none: "
                f"{config.source} leaves out what it masks, ours does not. Pass "
                "tf.function(model), and the mask as sample_weights, for a mean with "
                'reduction="mean_with_sample_weight".'
            )
        if _has_bfloat16(traced.graph.as_graph_def()):
            raise LossError(
                "tf.export: dtype in the model is bfloat16; expected another, as of the Keras "
                "policies float32 and mixed_float16: tf2onnx writes bfloat16 as float16."
            )
        converted, _ = tf2onnx.convert.from_function(
            forward, input_signature=input_signature, opset=_OPSET
        )
        # What it does not know it logs, and leaves in the model.
        onnx.checker.check_model(converted)
    except LossError:
        raise
    except Exception as error:
        raise LossError(f"tf.export: tf2onnx cannot convert the model: {error}") from error
    inputs = [value.name for value in converted.graph.input]
    if len(inputs) != len(input_signature):
        raise LossError(
            f"tf.export: inputs of the converted model are {', '.join(inputs)}; expected "
            f"{len(input_signature)}: make a tensor that the function reads from outside a "
            "tf.Variable, or an array."
        )
    return converted, bool(found)
