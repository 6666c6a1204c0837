# SPDX-License-Identifier: MIT
"""LossConfig: a loss with its settings, free of the framework that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from .dtypes import FLOAT_DTYPES
from .errors import LossError, check_type, expected, expected_shape
from .onnxscript_defs import CATALOGUE, LossSpec, find
from .onnxscript_defs import NO_IGNORED_LABEL as NO_IGNORED_LABEL

LabelAxis = Literal["dropped", "kept", "either"]
LossAxis = Literal["dropped", "kept", "as labels"]
Promotion = Literal["nothing", "class weights", "all"]
Samples = Literal["drawn", "shared", "with labels"]
Refusal = Literal[
    "unbatched logits",
    "no positions",
    "inner axis",
    "one class",
    "int32 labels",
    "uint8 labels",
    "uint8 labels of many axes",
    "integer probabilities",
    "label gradient",
]
"""What a source may not take, though the operators do: logits `[C]`; logits `[0, C]` and the like;
a class axis that is not the last; logits `[N, d, .., 1]` of labels without that axis; labels of
dtype int32, of dtype uint8, or of that one for logits of three axes and more; probabilities of
integer dtypes; the gradient by label probabilities."""

_CHOICES = {
    "label_axis": LabelAxis,
    "loss_axis": LossAxis,
    "promote": Promotion,
}


@dataclass(frozen=True, eq=False)
class LossConfig:
    """A loss of the catalogue and its settings, validated.

    Attributes:
        op: The loss's name in the catalogue, as `SoftmaxCrossEntropyLoss`.
        attributes: The operator's attributes; those left out have the SPEC's default.
        class_weights: One weight per class, `[C]`: an array, whose floating dtype counts, or a
            sequence of numbers, which take the logits' dtype.
        sample_weights: Whether the loss takes a weight for each position as an input; or the
            weights themselves, an array that becomes a constant.
        label_axis: Whether integer labels have the class axis too, of size 1: "dropped" (not),
            "kept" or "either", as their shape says.
        loss_axis: Whether an unreduced loss keeps the class axis, of size 1: "dropped", "kept" or
            "as labels".
        promote: What, where its floating dtype is another than the logits', is computed with them
            in the widest of all: "all" labels and class weights, as PyTorch promotes probabilities;
            "class weights" alone, as Paddle; or "nothing", where such a dtype is refused.
        source: The API that the configuration came from, for error messages and the metadata.
        cast_labels: Whether labels of any dtype are cast to the one that the operator takes, as
            TensorFlow does; float indices lose their fraction.
        dense_smoothing: Factor e of a smoothing that the attribute cannot express: probabilities t
            become (1 - e) t + e / n, where e is any number and n the size of the last axis.
        compute_dtype: The dtype that the loss has at least, where the logits' is narrower.
        weighted_as_arrays: Whether losses and sample weights meet as arrays do, as in Keras: all
            shapes that broadcast to the positions' are taken; weights `[N, 1]` of positions `[N]`
            give losses `[N, 1]`; a mean over the weights with no ignored class divides by the sum
            of the weights as they are given; and losses of shape `[]` or `[0]` are not reduced.
        refused: What the source does not take, with the reason for each, as an error gives it.
        name: The name of the operator's node.
        notes: Settings that change no number, recorded in the metadata.
        nan_if_empty: Whether a mean of no positions at all is nan, whatever `empty_mean` says of
            positions that do not count.
        outputs: The loss's outputs without being asked for: "loss", and "lse" or "probabilities".
        other_labels: The configuration for labels of the other kind, indices or probabilities,
            where the source takes both and tells them apart by their shape.
        samples: Where a sampled loss has its samples from: "drawn" by the operator, or the inputs
            `samples` and `probabilities`, with samples "shared" by all rows, `[S]`, or for each
            row "with labels" before them, `[N, T + S]`.
        sample_values: Default values of these two inputs, if there are any.
        num_classes: The number of classes that the logits of a sampled loss must have.

    Raises:
        LossError: An unknown op or attribute, or a value that the SPEC does not allow.
    """

    op: str
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)
    class_weights: Any = None
    sample_weights: Any = False
    label_axis: LabelAxis = "dropped"
    loss_axis: LossAxis = "dropped"
    promote: Promotion = "nothing"
    source: str = "onnxloss"
    cast_labels: bool = False
    dense_smoothing: float = 0.0
    compute_dtype: str | None = None
    weighted_as_arrays: bool = False
    refused: Mapping[Refusal, str] = field(default_factory=dict)
    name: str | None = None
    notes: Mapping[str, str | None] = field(default_factory=dict)
    nan_if_empty: bool = False
    outputs: tuple[str, ...] = ("loss",)
    other_labels: LossConfig | None = None
    samples: Samples = "drawn"
    sample_values: tuple[Any, Any] | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        """Validates, and completes the attributes."""
        try:
            spec = find(self.op)
        except KeyError:
            names = ", ".join(spec.name for spec in CATALOGUE)
            raise expected(self.source, "op", self.op, f"one of {names}") from None
        object.__setattr__(self, "attributes", MappingProxyType(_complete(spec, self.attributes)))
        for name, choice in _CHOICES.items():
            if getattr(self, name) not in get_args(choice):
                allowed = " or ".join(map(repr, get_args(choice)))
                raise expected(self.op, name, getattr(self, name), allowed)
        _check_samples(self)
        _check_probabilities(self)
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", _weights(self.op, self.class_weights))
        if not isinstance(self.sample_weights, bool):
            object.__setattr__(self, "sample_weights", _constant(self.op, self.sample_weights))

    @property
    def spec(self) -> LossSpec:
        """The SPEC of the loss."""
        return find(self.op)

    @property
    def takes_probabilities(self) -> bool:
        """Whether the labels are probabilities, of the logits' type."""
        return any(port.name == "labels" and port.type == "T" for port in self.spec.inputs)

    @property
    def ignores_a_label(self) -> bool:
        """Whether the loss has an `ignore_index` that stands for a label."""
        return self.attributes.get("ignore_index", NO_IGNORED_LABEL) != NO_IGNORED_LABEL


def check_config(where: str, config: Any) -> None:
    """Refuses what is no configuration, as the name of a loss.

    Raises:
        LossError: It is none.
    """
    check_type(where, "config", config, LossConfig, "a LossConfig, as from_torch makes it")


def _complete(spec: LossSpec, given: Mapping[str, Any]) -> dict[str, int | float | str]:
    settable = {attribute.name: attribute for attribute in spec.attributes if not attribute.derived}
    for name in given:
        if name not in settable:
            raise LossError(
                f"{spec.name}: {name} is not an attribute; expected {', '.join(settable)}."
            )
    values: dict[str, int | float | str] = {}
    for name, attribute in settable.items():
        value = given.get(name, attribute.default)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int) and not isinstance(value, bool):
            if not -(2**63) <= value < 2**63:
                raise expected(spec.name, name, value, "an integer of 64 bits")
            if isinstance(attribute.default, float):
                value = float(value)
        if not attribute.accepts(value):
            raise expected(spec.name, name, value, attribute.allowed)
        values[name] = value
    return values


def _check_samples(config: LossConfig) -> None:
    """What only sampled losses have, and what they have not."""
    drawn = bool(find(config.op).drawn)
    ways = get_args(Samples) if drawn else ("drawn",)
    if config.samples not in ways:
        raise expected(config.op, "samples", config.samples, " or ".join(ways))
    if config.sample_values is not None and config.samples == "drawn":
        raise LossError(
            f"{config.op}: sample_values are given; expected none beside drawn samples."
        )
    if config.num_classes is not None and not drawn:
        raise expected(config.op, "num_classes", config.num_classes, "None: the logits' size")
    for name in ("class_weights", "sample_weights") if drawn else ():
        if getattr(config, name) is not None and getattr(config, name) is not False:
            raise LossError(
                f"{config.op}: {name} are given; expected none, the loss has no weights."
            )


def _check_probabilities(config: LossConfig) -> None:
    """What means something of probabilities alone, and what of logits alone."""
    given = config.attributes
    if given.get("normalize", "none") == "none":
        if given.get("epsilon", 0.0) != 0:
            raise expected(config.op, "epsilon", given["epsilon"], '0 where normalize is "none"')
        return
    if given["from_logits"] == 1:
        raise expected(config.op, "normalize", given["normalize"], '"none" where from_logits is 1')
    if given["logit_softcap"] != 0:
        raise expected(config.op, "logit_softcap", given["logit_softcap"], "0 beside normalize")


def _constant(op: str, weights: Any) -> np.ndarray:
    try:
        copy = np.array(weights, np.float64)
    except (TypeError, ValueError):
        raise expected(op, "sample_weights", weights, "True, False or an array") from None
    copy.flags.writeable = False
    return copy


def _weights(op: str, weights: Any) -> np.ndarray | tuple[float, ...]:
    if not isinstance(weights, np.ndarray):
        error = expected(op, "class_weights", weights, "an array or numbers, one per class")
        if isinstance(weights, str | bytes | bytearray | Mapping | Set):
            raise error
        try:
            return tuple(float(weight) for weight in weights)
        except (TypeError, ValueError):
            raise error from None
    if weights.dtype not in FLOAT_DTYPES.values():
        allowed = " or ".join(FLOAT_DTYPES)
        raise expected(op, "dtype of class_weights", weights.dtype.name, allowed)
    if weights.ndim != 1:
        raise expected_shape(op, "class_weights", weights.shape, ["C"])
    copy = weights.copy()
    copy.flags.writeable = False
    return copy
