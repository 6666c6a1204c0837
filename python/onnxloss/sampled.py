# SPDX-License-Identifier: MIT
"""The sampled softmax losses of Paddle and TensorFlow as a LossConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .apis import completed, integer
from .config import LossConfig
from .errors import LossError, expected, expected_shape
from .onnxscript_defs import find

OP = "SampledSoftmaxCrossEntropyLoss"
PADDLE_SAMPLED = "paddle.fluid.layers.sampled_softmax_with_cross_entropy"
TF_SAMPLED = "tf.nn.sampled_softmax_loss"
_REQUIRED = object()
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    PADDLE_SAMPLED: {
        "num_samples": _REQUIRED,
        "num_true": 1,
        "remove_accidental_hits": True,
        "use_customized_samples": False,
        "customized_samples": None,
        "customized_probabilities": None,
        "seed": 0,
    },
    TF_SAMPLED: {
        "num_sampled": _REQUIRED,
        "num_classes": _REQUIRED,
        "num_true": 1,
        "sampled_values": None,
        "remove_accidental_hits": True,
        "seed": None,
        "name": "sampled_softmax_loss",
    },
}
"""Every parameter of each API besides its tensors, with the framework's default."""


def paddle_sampled(settings: Mapping[str, Any]) -> LossConfig:
    """The configuration of `paddle.fluid.layers.sampled_softmax_with_cross_entropy` (Paddle 1.8).

    The loss is what its documentation says, also for `num_true` > 1, where Paddle's code fails.
    With the library, a seed draws Paddle's own samples.

    Args:
        settings: The API's arguments besides logits and label. `use_customized_samples` makes the
            samples inputs of the model: `samples` and `probabilities`, both `[N, T + S]`, where
            the first T samples are the labels. `customized_samples` and `customized_probabilities`
            are their default values, or None for none.

    Returns:
        The configuration; the loss is `[N, 1]`.

    Raises:
        LossError: A setting that is not known, is missing, or that Paddle refuses.
    """
    api = PADDLE_SAMPLED
    values = _completed("from_paddle", api, settings)
    customized = _flag("from_paddle", "use_customized_samples", values)
    given = {name: values[name] for name in ("customized_samples", "customized_probabilities")}
    arrays = {name: value for name, value in given.items() if value is not None}
    for name, value in arrays.items():
        if not customized:
            raise expected("from_paddle", name, _shown(value), "None without customized samples")
    if len(arrays) == 1:
        missing = next(name for name in given if name not in arrays)
        raise expected("from_paddle", missing, None, f"an array beside {next(iter(arrays))}")
    return LossConfig(
        OP,
        {
            "num_samples": values["num_samples"],
            "num_true": values["num_true"],
            "remove_accidental_hits": int(_flag("from_paddle", "remove_accidental_hits", values)),
            "seed": values["seed"],
        },
        loss_axis="kept",
        samples="with labels" if customized else "drawn",
        sample_values=tuple(arrays.values()) or None,
        source=api,
    )


def tf_sampled(settings: Mapping[str, Any]) -> LossConfig:
    """The configuration of `tf.nn.sampled_softmax_loss`, as of TensorFlow 2.21.

    The loss is put behind logits `[N, num_classes]`, which are
    `matmul(inputs, weights, transpose_b=True) + biases`: nodes of the forward model. TensorFlow's
    random numbers are its own: a seed fixes the samples, but they are not TensorFlow's.

    Args:
        settings: The API's arguments besides weights, biases, labels and inputs.
            `sampled_values` makes the samples inputs of the model, `samples` `[S]` and
            `probabilities` `[N, T + S]`, the expected counts of the labels and of the samples:
            "inputs", or TensorFlow's three arrays as their default values.

    Returns:
        The configuration; the loss is `[N]`.

    Raises:
        LossError: A setting that is not known, is missing, or that TensorFlow refuses.
    """
    api = TF_SAMPLED
    values = _completed("from_tf", api, settings)
    given = values["sampled_values"]
    arrays = None if given is None or isinstance(given, str) else _expected_counts(given)
    if isinstance(given, str) and given != "inputs":
        raise expected("from_tf", "sampled_values", given, 'None, "inputs" or three arrays')
    num_classes = integer("from_tf", "num_classes", values["num_classes"])
    count = integer("from_tf", "num_sampled", values["num_sampled"])
    allowed = next(entry for entry in find(OP).attributes if entry.name == "num_samples")
    if not allowed.accepts(count):
        raise expected("from_tf", "num_sampled", count, allowed.allowed)
    if given is None and count > num_classes:
        raise expected("from_tf", "num_sampled", count, f"at most num_classes, {num_classes}")
    name = values["name"]
    if not isinstance(name, str | None):
        raise expected("from_tf", "name", name, "a string or None")
    return LossConfig(
        OP,
        {
            "num_samples": count,
            "num_true": values["num_true"],
            "remove_accidental_hits": int(_flag("from_tf", "remove_accidental_hits", values)),
            "seed": _tf_seed(values["seed"]),
        },
        samples="drawn" if given is None else "shared",
        sample_values=arrays,
        num_classes=num_classes,
        name=name,
        source=api,
    )


def _tf_seed(seed: Any) -> int:
    """The operator's seed: 0, which to TensorFlow is one like any other, draws anew in each call.

    Another one stands for it, as TensorFlow's samples are not ours anyway.
    """
    if seed is None:
        return 0
    return integer("from_tf", "seed", seed, "an integer or None") or 2**32 - 1


def _completed(door: str, api: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    values = completed(door, api, SETTINGS[api], settings)
    for name, value in values.items():
        if value is _REQUIRED:
            raise LossError(f"{door}: {name} is missing; expected an integer, as {api} has it.")
    return values


def _flag(door: str, name: str, values: Mapping[str, Any]) -> bool:
    if not isinstance(values[name], bool | np.bool_):
        raise expected(door, name, values[name], "True or False")
    return bool(values[name])


def _expected_counts(given: Any) -> tuple[np.ndarray, np.ndarray]:
    """TensorFlow's three arrays as the operator's two inputs."""
    try:
        samples, of_labels, of_samples = map(np.asarray, given)
    except (TypeError, ValueError):
        raise expected(
            "from_tf", "sampled_values", _shown(given), 'None, "inputs" or three arrays'
        ) from None
    if of_samples.shape != samples.shape:
        shape = of_samples.shape
        raise expected_shape("from_tf", "sampled_expected_count", shape, samples.shape)
    if of_labels.ndim != 2:
        raise expected_shape("from_tf", "true_expected_count", of_labels.shape, ("N", "T"))
    spread = np.broadcast_to(of_samples, (len(of_labels), of_samples.size))
    return samples, np.concatenate([of_labels, spread], axis=1)


def _shown(value: Any) -> Any:
    """What an error message says of a value that may be long."""
    return value if isinstance(value, bool | int | float | str) else type(value)
