# SPDX-License-Identifier: MIT
"""Paddle's cross entropies as a LossConfig."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from .apis import (
    beyond,
    completed,
    integer,
    path_of,
    refused_unbatched,
    settings_of,
    smoothing_factor,
)
from .config import NO_IGNORED_LABEL, LossConfig
from .errors import LossError, expected
from .paddle_versions import counts_valid, denominator_rule
from .sampled import PADDLE_SAMPLED, paddle_sampled

_FUNCTION = "paddle.nn.functional.cross_entropy"
_LAYER = "paddle.nn.CrossEntropyLoss"
_WITH_SOFTMAX = "paddle.nn.functional.softmax_with_cross_entropy"
_OBJECTS = {
    "paddle.nn.functional.loss.cross_entropy": _FUNCTION,
    "paddle.nn.functional.loss.softmax_with_cross_entropy": _WITH_SOFTMAX,
    "paddle.nn.layer.loss.CrossEntropyLoss": _LAYER,
}
_CROSS_ENTROPY: dict[str, Any] = {
    "weight": None,
    "ignore_index": -100,
    "reduction": "mean",
    "soft_label": False,
    "axis": -1,
    "use_softmax": True,
    "label_smoothing": 0.0,
    "name": None,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    _FUNCTION: _CROSS_ENTROPY,
    _LAYER: _CROSS_ENTROPY,
    _WITH_SOFTMAX: {
        "soft_label": False,
        "ignore_index": -100,
        "numeric_stable_mode": True,
        "return_softmax": False,
        "axis": -1,
    },
}
"""Every parameter of each API besides logits and labels, with Paddle's default."""

_NO_LABEL_GRADIENT = "Paddle computes no gradient of the cross entropy by its labels"
_ONE_HOT_LAST = (
    "label_smoothing makes Paddle lay out the labels' classes along the last axis, whatever axis "
    "the softmax has; transpose the logits"
)
_SMOOTHED_LAST = (
    "label_smoothing makes Paddle divide by the size of the last axis, not by the number of "
    "classes; transpose logits and labels"
)
_WEIGHTED_LAST = (
    "Paddle multiplies probabilities and class weights along the last axis, whatever axis the "
    "softmax has; transpose logits and labels"
)


def from_paddle(
    loss: Any,
    *,
    target: str | None = None,
    paddle_version: str | None = None,
    z_loss: float = 0.0,
    logit_softcap: float = 0.0,
    **settings: Any,
) -> LossConfig:
    """The configuration of a Paddle loss.

    Args:
        loss: A `paddle.nn.CrossEntropyLoss` instance, or the name of the API as a string:
            "paddle.nn.functional.cross_entropy", "paddle.nn.CrossEntropyLoss",
            "paddle.nn.functional.softmax_with_cross_entropy" or
            "paddle.fluid.layers.sampled_softmax_with_cross_entropy". With a name, Paddle need not
            be installed.
        target: "indices" or "probabilities". By default what `soft_label` says; with
            `label_smoothing` Paddle takes both, and the labels given to `export` decide.
        paddle_version: The version whose mean is meant, as "2.4", "2.6" or "3.x", with "-static"
            for a static graph: what the mean divides by has changed. By default the installed
            one, else 3.3.
        z_loss: Factor of lse^2 that is added to each position's loss; no framework has it.
        logit_softcap: Above 0, logits x become cap * tanh(x / cap) first; no framework has it.
        **settings: With a name, that API's own arguments. `numeric_stable_mode` changes nothing,
            the loss is always stable; `return_softmax` adds the output `probabilities`.

    Returns:
        The configuration. The loss has the dtype of the logits, or of class weights if that is
        wider; unreduced it keeps a class axis of size 1 where Paddle does.

    Raises:
        LossError: A loss or setting that is not known, that Paddle refuses, or with which Paddle
            gives a wrong number.

    Example:
        >>> config = onnxloss.from_paddle("paddle.nn.CrossEntropyLoss", soft_label=True)
        >>> config.op
        'SoftLabelCrossEntropyLoss'
    """
    config = _config(loss, target, paddle_version, settings)
    return beyond(config, z_loss, logit_softcap)


def _config(
    loss: Any, target: str | None, paddle_version: str | None, settings: dict[str, Any]
) -> LossConfig:
    """The loss as Paddle has it."""
    api = loss if isinstance(loss, str) else _OBJECTS.get(path_of(loss), path_of(loss))
    if api == PADDLE_SAMPLED:
        return paddle_sampled(settings)
    if api not in SETTINGS:
        names = " or ".join(f'"{name}"' for name in (*SETTINGS, PADDLE_SAMPLED))
        raise expected("from_paddle", "loss", api, names)
    if api == _LAYER and not isinstance(loss, str | type):
        settings = settings_of("from_paddle", loss, SETTINGS[api], settings)
    values = completed("from_paddle", api, SETTINGS[api], settings)
    for name in ("soft_label", "use_softmax", "numeric_stable_mode", "return_softmax"):
        if not isinstance(values.get(name, False), bool | np.bool_):
            raise expected("from_paddle", name, values[name], "True or False")
    ignore_index = integer("from_paddle", "ignore_index", values["ignore_index"])
    if not -(2**31) <= ignore_index < 2**31:
        raise expected("from_paddle", "ignore_index", ignore_index, "an integer of 32 bits")
    values["ignore_index"] = ignore_index
    if target not in (None, "indices", "probabilities"):
        raise expected("from_paddle", "target", target, '"indices" or "probabilities"')
    if api == _WITH_SOFTMAX:
        return _with_softmax(values, target)
    values["label_smoothing"] = smoothing_factor("from_paddle", "Paddle", values["label_smoothing"])
    values["weight"] = _array(values["weight"])
    return _cross_entropy(api, values, target, denominator_rule(paddle_version))


def _with_softmax(values: dict[str, Any], target: str | None) -> LossConfig:
    """No weights, no reduction; labels and loss have the class axis, of size 1."""
    probabilities = values["soft_label"]
    _check_target(target, probabilities)
    attributes = {"axis": values["axis"], "reduction": "none"}
    if not probabilities:
        # Beside soft_label=True it is documented to have no meaning.
        attributes["ignore_index"] = values["ignore_index"]
    return LossConfig(
        "SoftLabelCrossEntropyLoss" if probabilities else "SoftmaxCrossEntropyLoss",
        attributes,
        label_axis="kept",
        loss_axis="kept",
        refused={**refused_unbatched(values["axis"]), "label gradient": _NO_LABEL_GRADIENT},
        outputs=("loss", "probabilities") if values["return_softmax"] else ("loss",),
        source=_WITH_SOFTMAX,
    )


def _cross_entropy(api: str, values: dict[str, Any], target: str | None, rule: str) -> LossConfig:
    smoothed, soft = bool(values["label_smoothing"]), values["soft_label"]
    if smoothed or soft:
        _check_ignore_index(values, rule)
    indices = _indices(api, values, rule)
    if not smoothed:
        _check_target(target, soft)
        return _probabilities(api, values, rule) if soft else indices
    # Smoothing makes probabilities of either kind of labels, whatever soft_label says.
    probabilities = _probabilities(api, values, rule)
    if target is not None:
        return indices if target == "indices" else probabilities
    chosen, other = (probabilities, indices) if soft else (indices, probabilities)
    return dataclasses.replace(chosen, other_labels=other)


def _indices(api: str, values: dict[str, Any], rule: str) -> LossConfig:
    smoothed, weighted = bool(values["label_smoothing"]), values["weight"] is not None
    ignore_index = values["ignore_index"]
    refused = refused_unbatched(values["axis"])
    refused["uint8 labels"] = "Paddle has no kernel for uint8"
    if smoothed:
        refused["inner axis"] = _ONE_HOT_LAST
    if weighted:
        mean_over = "weights"
    elif smoothed or not counts_valid(ignore_index, rule):
        mean_over = "positions"
    else:
        mean_over = "valid"
    return LossConfig(
        "SoftmaxCrossEntropyLoss",
        {
            **_common(values, mean_over),
            # A smoothed label is a distribution before Paddle looks for ignored ones: there are
            # none, and its one_hot takes no label out of range.
            "ignore_index": NO_IGNORED_LABEL if smoothed else ignore_index,
            "class_weighting": "position" if smoothed and weighted else "class",
        },
        class_weights=values["weight"],
        label_axis="dropped" if smoothed else "either",
        loss_axis="kept" if smoothed else "as labels",
        promote="class weights",
        refused=refused,
        nan_if_empty=mean_over != "positions" and rule != "static",
        name=values["name"],
        source=api,
    )


def _probabilities(api: str, values: dict[str, Any], rule: str) -> LossConfig:
    smoothed, weighted = bool(values["label_smoothing"]), values["weight"] is not None
    mean_over = "weights" if weighted else "positions"
    refused = refused_unbatched(values["axis"])
    refused["label gradient"] = _NO_LABEL_GRADIENT
    refused["integer probabilities"] = "Paddle takes no integers for probabilities"
    if smoothed or weighted:
        refused["inner axis"] = _SMOOTHED_LAST if smoothed else _WEIGHTED_LAST
    return LossConfig(
        "SoftLabelCrossEntropyLoss",
        {
            **_common(values, mean_over),
            "class_weighting": "position" if weighted else "class",
        },
        class_weights=values["weight"],
        loss_axis="kept",
        promote="class weights",
        cast_labels=smoothed,
        refused=refused,
        nan_if_empty=mean_over != "positions" and rule != "static",
        name=values["name"],
        source=api,
    )


def _common(values: dict[str, Any], mean_over: str) -> dict[str, Any]:
    return {
        "axis": values["axis"],
        "reduction": values["reduction"],
        "mean_over": mean_over,
        "empty_mean": "nan" if mean_over == "positions" else "sum",
        "label_smoothing": values["label_smoothing"],
        "from_logits": int(values["use_softmax"]),
    }


def _check_target(target: str | None, probabilities: bool) -> None:
    kind = "probabilities" if probabilities else "indices"
    if target not in (None, kind):
        raise expected("from_paddle", "target", target, f'"{kind}" with soft_label={probabilities}')


def _check_ignore_index(values: dict[str, Any], rule: str) -> None:
    """Nothing is ignored among probabilities, but the mean divides as if something were."""
    ignore_index = values["ignore_index"]
    cause = "label_smoothing" if values["label_smoothing"] else "soft_label"
    if ignore_index >= 0:
        raise LossError(
            f"from_paddle: ignore_index is {ignore_index}; expected a negative one with {cause}, "
            "where Paddle ignores no row and divides a mean by the wrong number: take "
            "reduction='none' and leave rows out yourself."
        )
    if rule == "not -100" and ignore_index != -100 and values["reduction"] == "mean":
        raise LossError(
            f"from_paddle: ignore_index is {ignore_index}; expected -100 with {cause}, where "
            "Paddle up to 2.4 divides the mean by the number of classes too."
        )


def _array(weight: Any) -> Any:
    """A tensor's array; Paddle gives bfloat16 as its bits."""
    if weight is None or isinstance(weight, np.ndarray) or not hasattr(weight, "numpy"):
        return weight
    array = np.asarray(weight.numpy())
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array
