# SPDX-License-Identifier: MIT
"""TensorFlow's and Keras's softmax cross entropies as a LossConfig."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import NO_IGNORED_LABEL, LossConfig
from .dtypes import FLOAT_DTYPES
from .errors import LossError, expected
from .sampled import TF_SAMPLED, tf_sampled

HARD = "SoftmaxCrossEntropyLoss"
SOFT = "SoftLabelCrossEntropyLoss"
V1 = "tf.compat.v1.losses.softmax_cross_entropy"
DENSE = "tf.nn.softmax_cross_entropy_with_logits"
SPARSE = "tf.nn.sparse_softmax_cross_entropy_with_logits"
CATEGORICAL = "keras.losses.CategoricalCrossentropy"
SPARSE_CATEGORICAL = "keras.losses.SparseCategoricalCrossentropy"
CATEGORICAL_FUNCTION = "keras.losses.categorical_crossentropy"
SPARSE_CATEGORICAL_FUNCTION = "keras.losses.sparse_categorical_crossentropy"

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

_MODULES = {
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

_V1_REDUCTIONS: Mapping[str, Mapping[str, str]] = {
    "none": {"reduction": "none"},
    "weighted_sum": {"reduction": "sum"},
    "weighted_mean": {"reduction": "mean", "mean_over": "weights"},
    "weighted_sum_over_batch_size": {"reduction": "mean", "mean_over": "positions"},
    "weighted_sum_by_nonzero_weights": {"reduction": "mean", "mean_over": "nonzero"},
}
_FLOATX = "float32"
"""The dtype that Keras computes losses in unless told otherwise."""


def from_tf(loss: Any, **settings: Any) -> LossConfig:
    """The configuration of a TensorFlow or Keras loss, as of TensorFlow 2.21 and Keras 3.15.

    Dtypes: labels of any dtype are cast. The loss has the logits' dtype, but for the Keras classes:
    there it has the wider of the logits' dtype and Keras's own (the setting `dtype`, float32 by
    default). So 16-bit logits give a float32 loss, as in Keras, and float64 logits a float64 one,
    where Keras casts them down. Probabilities (`from_logits=False`) are never computed on in 16
    bits, where they cannot be clipped to 1e-7. A Keras model that ends in a softmax has another
    loss than its probabilities alone: see `onnxloss.tf.export`.

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
    api = _api_of(loss)
    if api == TF_SAMPLED:
        return tf_sampled(settings)
    if api not in SETTINGS:
        raise expected("from_tf", "loss", api, " or ".join((*SETTINGS, TF_SAMPLED)))
    if not isinstance(loss, str) and not hasattr(loss, "__qualname__"):
        if settings:
            raise LossError(
                f"from_tf: {', '.join(settings)} is given beside an instance of {api}; set it on "
                "the instance, or give the loss by name."
            )
        settings = _settings_of(loss)
    for name in settings:
        if name not in SETTINGS[api]:
            raise LossError(
                f"from_tf: {name} is not a setting of {api}; expected {', '.join(SETTINGS[api])}."
            )
    values = {**SETTINGS[api], **settings}
    if api == V1:
        return _v1(values)
    if api in (DENSE, SPARSE):
        return _nn(api, values)
    return _keras(api, values)


def _api_of(loss: Any) -> str:
    """The name of a loss; a subclass may compute anything and has its own."""
    if isinstance(loss, str):
        for long, short in (("tensorflow.", "tf."), ("tf.keras.", "keras.")):
            loss = short + loss.removeprefix(long) if loss.startswith(long) else loss
        return str(loss)
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return str(_MODULES.get(name, name))


def _settings_of(loss: Any) -> dict[str, Any]:
    """A Keras instance's settings: it calls its function with these, whatever its attributes."""
    return {
        **loss._fn_kwargs,
        "reduction": loss.reduction,
        "name": loss.name,
        "dtype": loss.dtype,
    }


def _v1(values: Mapping[str, Any]) -> LossConfig:
    """`onehot_labels` are constants to the gradient; the sums are of the weighted losses."""
    reduction, collection = values["reduction"], values["loss_collection"]
    if not isinstance(reduction, str) or reduction not in _V1_REDUCTIONS:
        raise expected("from_tf", "reduction", reduction, " or ".join(_V1_REDUCTIONS))
    if not (collection is None or isinstance(collection, str)):
        raise expected("from_tf", "loss_collection", collection, "the name of a collection or None")
    # TensorFlow smooths only where the factor is above 0: a negative one or nan changes nothing.
    factor = _number("label_smoothing", values["label_smoothing"])
    attributes, smoothing = _smoothing(factor if factor > 0 else 0.0, last_axis=True)
    return LossConfig(
        SOFT,
        {"axis": -1, "empty_mean": "zero", **_V1_REDUCTIONS[reduction], **attributes},
        sample_weights=_v1_weights(values["weights"]),
        dense_smoothing=smoothing,
        cast_labels=True,
        name=_node_name("scope", values["scope"]),
        notes={"loss_collection": collection},
        source=V1,
    )


def _v1_weights(weights: Any) -> Any:
    """True, which takes them as an input if one is asked for, where they are the default."""
    if weights is None:
        raise expected("from_tf", "weights", weights, "a number or an array: TensorFlow refuses it")
    try:
        array = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise expected("from_tf", "weights", weights, "a number or an array") from None
    return True if array.shape == () and array == 1 else array


def _nn(api: str, values: Mapping[str, Any]) -> LossConfig:
    axis = _axis(-1 if values.get("axis") is None else values["axis"], fused=True)
    attributes: dict[str, Any] = {"axis": axis, "reduction": "none"}
    if api == SPARSE:
        attributes["ignore_index"] = NO_IGNORED_LABEL
    return LossConfig(
        HARD if api == SPARSE else SOFT,
        attributes,
        cast_labels=api == DENSE,
        refused=("uint8 labels",) if api == SPARSE else _refused(axis),
        name=_node_name("name", values["name"]),
        source=api,
    )


def _keras(api: str, values: Mapping[str, Any]) -> LossConfig:
    is_class = api in (CATEGORICAL, SPARSE_CATEGORICAL)
    sparse = api in (SPARSE_CATEGORICAL, SPARSE_CATEGORICAL_FUNCTION)
    from_logits = bool(values["from_logits"])
    axis = _axis(values["axis"], fused=from_logits)
    ignored = values.get("ignore_class")
    attributes: dict[str, Any] = {
        "axis": axis,
        "empty_mean": "zero",
        **_keras_reduction(values.get("reduction", "none"), ignores=ignored is not None),
    }
    smoothing = 0.0
    refused = _refused(axis)
    if sparse:
        if axis < -1:
            raise expected("from_tf", "axis", axis, "-1, the only axis that Keras supports here")
        attributes["ignore_index"] = _ignored(ignored)
        refused = (*refused, "inner axis")
    else:
        factor = _number("label_smoothing", values["label_smoothing"])
        smoothed, smoothing = _smoothing(factor, last_axis=axis == -1)
        attributes |= smoothed
        attributes["from_logits"] = int(from_logits)
    return LossConfig(
        HARD if sparse else SOFT,
        attributes,
        sample_weights=is_class,
        label_axis="either",
        cast_labels=True,
        dense_smoothing=smoothing,
        probabilities="no" if from_logits else "clipped" if sparse else "normalised",
        compute_dtype=_compute_dtype(values["dtype"]) if is_class else None,
        weighted_as_arrays=is_class,
        refused=refused,
        name=_node_name("name", values.get("name")),
        source=api,
    )


def _keras_reduction(reduction: Any, *, ignores: bool) -> dict[str, str]:
    if reduction is None or reduction == "none":
        return {"reduction": "none"}
    if reduction == "sum":
        return {"reduction": "sum"}
    if reduction in ("mean", "sum_over_batch_size"):
        return {"reduction": "mean", "mean_over": "valid" if ignores else "positions"}
    if reduction == "mean_with_sample_weight":
        return {"reduction": "mean", "mean_over": "weights"}
    allowed = "sum, sum_over_batch_size, mean, mean_with_sample_weight, none or None"
    raise expected("from_tf", "reduction", reduction, allowed)


def _smoothing(factor: float, *, last_axis: bool) -> tuple[dict[str, float], float]:
    """The attribute, or else the factor of a dense smoothing.

    TensorFlow and Keras share the factor among as many classes as the last axis has, even where
    the classes are on another axis.
    """
    if last_axis and 0 <= factor <= 1:
        return {"label_smoothing": factor}, 0.0
    return {}, factor


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise expected("from_tf", name, value, "a number")
    number = float(value)
    if math.isinf(number):
        raise expected("from_tf", name, value, "a finite number")
    return number


def _axis(value: Any, *, fused: bool) -> int:
    """TensorFlow's fused operator counts no axis but the last from the end."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise expected("from_tf", "axis", value, "an integer")
    if fused and value < -1:
        raise expected("from_tf", "axis", value, "-1 or an axis counted from the front, from 0")
    return int(value)


def _refused(axis: int) -> tuple[str, ...]:
    """Logits `[C]` have the axes 0 and -1 alone."""
    return ("unbatched",) if axis not in (0, -1) else ()


def _ignored(value: Any) -> int:
    if value is None:
        return NO_IGNORED_LABEL
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise expected("from_tf", "ignore_class", value, "an integer or None")
    return int(value)


def _compute_dtype(value: Any) -> str:
    """The dtype that a Keras loss computes in: a name, that of a policy, or a policy object."""
    name = getattr(value, "compute_dtype", value)
    if isinstance(name, str):
        name = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}.get(name, name)
    elif name is not None:
        name = getattr(name, "name", name)
    if name is None:
        return _FLOATX
    if name not in FLOAT_DTYPES:
        raise expected("from_tf", "dtype", name, " or ".join(FLOAT_DTYPES))
    return str(name)


def _node_name(setting: str, value: Any) -> str | None:
    if not (value is None or isinstance(value, str)):
        raise expected("from_tf", setting, value, "a name or None")
    return value or None
