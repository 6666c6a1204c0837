# SPDX-License-Identifier: MIT
"""The meaning of TensorFlow's and Keras's losses: a LossConfig from each one's settings."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from .apis import integer, refused_unbatched
from .config import NO_IGNORED_LABEL, LossConfig
from .dtypes import FLOAT_DTYPES
from .errors import expected

V1 = "tf.compat.v1.losses.softmax_cross_entropy"
DENSE = "tf.nn.softmax_cross_entropy_with_logits"
SPARSE = "tf.nn.sparse_softmax_cross_entropy_with_logits"
CATEGORICAL = "keras.losses.CategoricalCrossentropy"
SPARSE_CATEGORICAL = "keras.losses.SparseCategoricalCrossentropy"
CATEGORICAL_FUNCTION = "keras.losses.categorical_crossentropy"
SPARSE_CATEGORICAL_FUNCTION = "keras.losses.sparse_categorical_crossentropy"

_HARD = "SoftmaxCrossEntropyLoss"
_SOFT = "SoftLabelCrossEntropyLoss"
_V1_REDUCTIONS: Mapping[str, Mapping[str, str]] = {
    "none": {"reduction": "none"},
    "weighted_sum": {"reduction": "sum"},
    "weighted_mean": {"reduction": "mean", "mean_over": "weights"},
    "weighted_sum_over_batch_size": {"reduction": "mean", "mean_over": "positions"},
    "weighted_sum_by_nonzero_weights": {"reduction": "mean", "mean_over": "nonzero"},
}


def v1_loss(values: Mapping[str, Any]) -> LossConfig:
    """The loss of tf.compat.v1: labels have no gradient; sums are of the weighted losses."""
    reduction, collection = values["reduction"], values["loss_collection"]
    if not isinstance(reduction, str) or reduction not in _V1_REDUCTIONS:
        raise expected("from_tf", "reduction", reduction, " or ".join(_V1_REDUCTIONS))
    if not (collection is None or isinstance(collection, str)):
        raise expected("from_tf", "loss_collection", collection, "the name of a collection or None")
    # TensorFlow smooths only where the factor is above 0: a negative one or nan changes nothing.
    factor = _number("label_smoothing", values["label_smoothing"])
    attributes, smoothing = _smoothing(factor if factor > 0 else 0.0, last_axis=True)
    return LossConfig(
        _SOFT,
        {"axis": -1, "empty_mean": "zero", **_V1_REDUCTIONS[reduction], **attributes},
        sample_weights=_v1_weights(values["weights"]),
        dense_smoothing=smoothing,
        cast_labels=True,
        name=_node_name("scope", values["scope"]),
        refused={"label gradient": "tf.compat.v1.losses stops the gradient at its labels"},
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


def nn_loss(api: str, values: Mapping[str, Any]) -> LossConfig:
    """The losses of tf.nn, one for each position: all classes' probabilities, or one class."""
    axis = _axis(-1 if values.get("axis") is None else values["axis"], fused=True)
    attributes: dict[str, Any] = {"axis": axis, "reduction": "none"}
    if api == SPARSE:
        attributes["ignore_index"] = NO_IGNORED_LABEL
    return LossConfig(
        _HARD if api == SPARSE else _SOFT,
        attributes,
        cast_labels=api == DENSE,
        refused={"uint8 labels": "TensorFlow takes no others"}
        if api == SPARSE
        else refused_unbatched(axis),
        name=_node_name("name", values["name"]),
        source=api,
    )


def keras_loss(api: str, values: Mapping[str, Any]) -> LossConfig:
    """Keras's losses: the classes are those of the functions, then weighted and reduced."""
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
    refused = refused_unbatched(axis)
    if sparse:
        if axis < -1:
            raise expected("from_tf", "axis", axis, "-1, the only axis that Keras supports here")
        attributes["ignore_index"] = _ignored(ignored)
        refused["inner axis"] = "the only axis that Keras supports here"
        if is_class:
            refused["one class"] = "Keras drops the axis of one class where labels have it not"
    else:
        factor = _number("label_smoothing", values["label_smoothing"])
        smoothed, smoothing = _smoothing(factor, last_axis=axis == -1)
        attributes |= smoothed
    if not from_logits:
        attributes |= {
            "from_logits": 0,
            "normalize": "after_clip" if sparse else "before_clip",
            "epsilon": float(_keras_default("epsilon", 1e-7)),
        }
    return LossConfig(
        _HARD if sparse else _SOFT,
        attributes,
        sample_weights=is_class,
        label_axis="either",
        cast_labels=True,
        dense_smoothing=smoothing,
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
    axis = integer("from_tf", "axis", value)
    if fused and axis < -1:
        raise expected("from_tf", "axis", axis, "-1 or an axis counted from the front, from 0")
    return axis


def _ignored(value: Any) -> int:
    if value is None:
        return NO_IGNORED_LABEL
    ignored = integer("from_tf", "ignore_class", value, "an integer or None")
    if not NO_IGNORED_LABEL < ignored < 2**63:
        raise expected("from_tf", "ignore_class", value, "a number in (-2^63, 2^63), or None")
    return ignored


def _compute_dtype(value: Any) -> str:
    """The dtype that a Keras loss computes in: a name, that of a policy, or a policy object."""
    name = getattr(value, "compute_dtype", value)
    if isinstance(name, str):
        name = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}.get(name, name)
    elif name is not None:
        name = getattr(name, "name", name)
    if name is None:
        name = _keras_default("floatx", "float32")
    if name not in FLOAT_DTYPES:
        raise expected("from_tf", "dtype", name, " or ".join(FLOAT_DTYPES))
    return str(name)


def _keras_default(name: str, otherwise: Any) -> Any:
    """What `keras.config` says now, or what Keras has unless told otherwise where none is there."""
    keras = sys.modules.get("keras")
    return otherwise if keras is None else getattr(keras.config, name)()


def _node_name(setting: str, value: Any) -> str | None:
    if not (value is None or isinstance(value, str)):
        raise expected("from_tf", setting, value, "a name or None")
    return value or None
