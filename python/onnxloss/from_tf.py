# SPDX-License-Identifier: MIT
"""TensorFlow's and Keras's softmax cross entropies as a LossConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .apis import beyond, completed, path_of, refuse_beside
from .config import LossConfig
from .errors import expected
from .sampled import TF_SAMPLED, tf_sampled
from .tf_losses import (
    CATEGORICAL,
    CATEGORICAL_FUNCTION,
    DENSE,
    SPARSE,
    SPARSE_CATEGORICAL,
    SPARSE_CATEGORICAL_FUNCTION,
    V1,
    keras_loss,
    nn_loss,
    v1_loss,
)

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    V1: {
        "weights": 1.0,
        "label_smoothing": 0,
        "scope": None,
        "loss_collection": "losses",
        "reduction": "weighted_sum_by_nonzero_weights",
    },
    DENSE: {"axis": -1, "name": None},
    SPARSE: {"name": None},
    CATEGORICAL: {
        "from_logits": False,
        "label_smoothing": 0.0,
        "axis": -1,
        "reduction": "sum_over_batch_size",
        "name": "categorical_crossentropy",
        "dtype": None,
    },
    SPARSE_CATEGORICAL: {
        "from_logits": False,
        "ignore_class": None,
        "reduction": "sum_over_batch_size",
        "axis": -1,
        "name": "sparse_categorical_crossentropy",
        "dtype": None,
    },
    CATEGORICAL_FUNCTION: {"from_logits": False, "label_smoothing": 0.0, "axis": -1},
    SPARSE_CATEGORICAL_FUNCTION: {"from_logits": False, "ignore_class": None, "axis": -1},
}
"""Every parameter of each API besides labels and logits, with its default."""

_OBJECTS = {
    "tensorflow.python.ops.losses.losses_impl.softmax_cross_entropy": V1,
    "tensorflow.python.ops.nn_ops.softmax_cross_entropy_with_logits_v2": DENSE,
    "tensorflow.python.ops.nn_ops.sparse_softmax_cross_entropy_with_logits_v2": SPARSE,
    "tensorflow.python.ops.nn_impl.sampled_softmax_loss_v2": TF_SAMPLED,
    "keras.src.losses.losses.CategoricalCrossentropy": CATEGORICAL,
    "keras.src.losses.losses.SparseCategoricalCrossentropy": SPARSE_CATEGORICAL,
    "keras.src.losses.losses.categorical_crossentropy": CATEGORICAL_FUNCTION,
    "keras.src.losses.losses.sparse_categorical_crossentropy": SPARSE_CATEGORICAL_FUNCTION,
}
"""Where the APIs are defined: what a loss given as an object says of itself."""


def from_tf(
    loss: Any, *, z_loss: float = 0.0, logit_softcap: float = 0.0, **settings: Any
) -> LossConfig:
    """The configuration of a TensorFlow or Keras loss, as of TensorFlow 2.21 and Keras 3.15.

    Dtypes: labels of any dtype are cast. The loss has the logits' dtype, but for the Keras classes:
    there it has the wider of the logits' dtype and Keras's own (the setting `dtype`, float32 by
    default). So 16-bit logits give a float32 loss, as in Keras, and float64 logits a float64 one,
    where Keras casts them down. 16-bit probabilities (`from_logits=False`) are clipped in float32.
    A Keras model that ends in a softmax has another loss than its probabilities alone: see
    `onnxloss.tf.export`.

    Args:
        loss: An instance of `keras.losses.CategoricalCrossentropy` or
            `SparseCategoricalCrossentropy`, one of the functions named here, or an API's name as a
            string, for which TensorFlow need not be installed:
            "tf.compat.v1.losses.softmax_cross_entropy",
            "tf.nn.softmax_cross_entropy_with_logits",
            "tf.nn.sparse_softmax_cross_entropy_with_logits", "tf.nn.sampled_softmax_loss",
            "keras.losses.CategoricalCrossentropy", "keras.losses.categorical_crossentropy",
            "keras.losses.SparseCategoricalCrossentropy" or
            "keras.losses.sparse_categorical_crossentropy", the last four with "tf." too.
        z_loss: Factor of lse^2 that is added to each position's loss; no framework has it.
        logit_softcap: Above 0, logits x become cap * tanh(x / cap) first; no framework has it.
        **settings: Beside a name or function, that API's own arguments. `weights` of
            `tf.compat.v1.losses.softmax_cross_entropy` becomes a constant; weights that are to be
            an input are asked for by `sample_weights` of `export`, as `sample_weight` of a Keras
            loss is.

    Returns:
        The configuration. `scope` or `name` is the name of the operator's node; `loss_collection`
        is recorded in the model's metadata.

    Raises:
        LossError: A loss or setting that is not known, or that TensorFlow or Keras refuses.

    Example:
        >>> config = onnxloss.from_tf("keras.losses.CategoricalCrossentropy", from_logits=True)
        >>> config.op
        'SoftLabelCrossEntropyLoss'
    """
    return beyond(_config(loss, settings), z_loss, logit_softcap)


def _config(loss: Any, settings: dict[str, Any]) -> LossConfig:
    """The loss as TensorFlow or Keras has it."""
    api = _api_of(loss)
    if api == TF_SAMPLED:
        return tf_sampled(settings)
    if api not in SETTINGS:
        raise expected("from_tf", "loss", api, " or ".join((*SETTINGS, TF_SAMPLED)))
    if not isinstance(loss, str) and not hasattr(loss, "__qualname__"):
        refuse_beside("from_tf", f"an instance of {api}", settings)
        settings = _settings_of(loss)
    values = completed("from_tf", api, SETTINGS[api], settings)
    if api == V1:
        return v1_loss(values)
    if api in (DENSE, SPARSE):
        return nn_loss(api, values)
    return keras_loss(api, values)


def _api_of(loss: Any) -> str:
    """The name of a loss."""
    if isinstance(loss, str):
        for long, short in (("tensorflow.", "tf."), ("tf.keras.", "keras.")):
            loss = short + loss.removeprefix(long) if loss.startswith(long) else loss
        return str(loss)
    return _OBJECTS.get(path_of(loss), path_of(loss))


def _settings_of(loss: Any) -> dict[str, Any]:
    """A Keras instance's settings: it calls its function with these, whatever its attributes."""
    return {
        **loss._fn_kwargs,
        "reduction": loss.reduction,
        "name": loss.name,
        "dtype": loss.dtype,
    }
