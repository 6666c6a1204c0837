# SPDX-License-Identifier: MIT
"""What losses are tried on: shapes, settings and changes to random inputs, with the reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Draft:
    """The inputs of a case while its trait still changes them, with the class axis last."""

    rng: np.random.Generator
    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Trait:
    """What is particular about a case: its shape, its settings, and a change to its inputs."""

    name: str
    shape: tuple[int, ...]
    change: Callable[[Draft], None] = lambda draft: None
    axis: int = 1
    weighted: bool = False
    e: float = 0.0
    ignore_index: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The attributes that differ from their defaults."""
        given = {"label_smoothing": self.e or None, "ignore_index": self.ignore_index}
        return {name: value for name, value in given.items() if value is not None}


def _set_labels(*positions: int, label: int) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        draft.labels.reshape(-1)[list(positions)] = label

    return change


def _set_all_labels(label: int) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        draft.labels[...] = label

    return change


def _first_and_last(draft: Draft) -> None:
    draft.labels[0::2] = 0
    draft.labels[1::2] = draft.logits.shape[-1] - 1


def _no_label_two(draft: Draft) -> None:
    draft.labels[draft.labels == 2] = 3


def _one_hot(draft: Draft) -> None:
    draft.labels = np.eye(draft.logits.shape[-1])[draft.labels.argmax(-1)]


def _target(draft: Draft) -> np.ndarray:
    """An integer label for each row, whichever kind of labels the loss has."""
    if draft.labels.shape == draft.logits.shape:
        _one_hot(draft)
        return draft.labels.argmax(-1)
    return draft.labels


def _gap_1000(draft: Draft) -> None:
    target = _target(draft)
    draft.logits[...] = 0.0
    rows = np.arange(len(target))
    draft.logits[rows, target] = np.where(rows % 2, 1000.0, -1000.0)


def _margin_20(draft: Draft) -> None:
    target = _target(draft)
    draft.logits[...] = 0.0
    draft.logits[np.arange(len(target)), target] = 20.0


def _offset(draft: Draft) -> None:
    # Multiples of 8 are exact in float32 at 1e8, so that the gaps are what they were before.
    draft.logits[...] = 1e8 + 8 * draft.rng.integers(-2, 3, draft.logits.shape)


def _offset_16_bit(draft: Draft) -> None:
    # 1e8 is beyond float16; at 1000 bfloat16 has steps of 4.
    draft.logits[...] = 1000 + 4 * draft.rng.integers(-2, 3, draft.logits.shape)


def _equal(draft: Draft) -> None:
    draft.logits[...] = 0.5


def _set_logit(value: float, *, at_target: bool, rows: slice = slice(0, 2)) -> Any:
    def change(draft: Draft) -> None:
        target = _target(draft)
        for row in range(*rows.indices(len(target))):
            classes = draft.logits.shape[-1]
            column = target[row] if at_target else (target[row] + 1) % classes
            draft.logits[row, column] = value

    return change


def _neg_inf_under_probability(draft: Draft) -> None:
    draft.logits[1, 2] = -np.inf


def _neg_inf_row(draft: Draft) -> None:
    draft.logits[1] = -np.inf


def _nan_ignored(draft: Draft) -> None:
    draft.labels[[1, 3, 4]] = -100
    draft.logits[1, 2] = np.nan
    draft.logits[3] = np.inf
    draft.logits[4] = -np.inf


def _zero_hit_weights(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[np.unique(draft.labels)] = 0.0


def _zero_weights(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[...] = 0.0


def _zero_weight_at_neg_inf(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[2] = 0.0
    draft.logits[0, 2] = -np.inf
    if draft.labels.shape != draft.logits.shape:
        draft.labels[0] = 2


def _weightless_undefined_rows(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[...] = 0.0
    draft.logits[0, 1] = np.nan
    draft.logits[1, 2] = np.inf
    draft.logits[2] = -np.inf


def _unused_weights(draft: Draft) -> None:
    assert draft.weights is not None
    draft.labels[draft.labels <= 1] = 5
    draft.weights[:2] = np.nan, np.inf


def _scaled_probabilities(draft: Draft) -> None:
    draft.labels *= draft.rng.uniform(0.0, 3.0, (*draft.labels.shape[:-1], 1))


def _zero_probabilities(draft: Draft) -> None:
    draft.labels[1] = 0.0


# 6x10: a few rows of a size that no vector width divides.
SHARED: tuple[Trait, ...] = (
    Trait("plain", (6, 10)),
    Trait("weighted", (6, 10), weighted=True),
    # One class: p is exactly 1, the loss exactly 0.
    Trait("one_class", (4, 1)),
    Trait("one_class_smoothed", (4, 1), weighted=True, e=0.3),
    # No position: the mean is 0/0, the sum 0, and no kernel may read anything.
    Trait("empty_batch", (0, 5)),
    Trait("empty_batch_weighted", (0, 5), weighted=True, e=0.1),
    Trait("empty_inner", (2, 5, 0)),
    # exp underflows far below a gap of 1000: log(softmax) would give inf.
    Trait("gap_1000", (6, 5), _gap_1000),
    # log(1 + 2e-9): lse - x_target rounds it to 0 in float32.
    Trait("margin_20", (6, 2), _margin_20),
    # Masked classes: legal, and without a gradient.
    Trait("neg_inf_off_target", (6, 5), _set_logit(-np.inf, at_target=False)),
    Trait("neg_inf_at_target", (6, 5), _set_logit(-np.inf, at_target=True)),
    # Smoothing gives a masked class a coefficient: the loss is +inf, the gradient finite.
    Trait("neg_inf_smoothed", (6, 5), _set_logit(-np.inf, at_target=False), e=0.1),
    Trait("neg_inf_row", (4, 5), _neg_inf_row),
    Trait("pos_inf", (4, 5), _set_logit(np.inf, at_target=False)),
    Trait("pos_inf_at_target", (4, 5), _set_logit(np.inf, at_target=True)),
    Trait("nan_row", (4, 5), _set_logit(np.nan, at_target=False)),
    # The maximum is not unique: log(C) must come out whichever one is taken.
    Trait("equal_logits", (3, 7), _equal),
    # The class axis anywhere: it is last in language models, first in nothing but a transpose.
    Trait("axis_last", (2, 3, 5), axis=2),
    Trait("axis_first", (5, 4), axis=0, weighted=True),
    Trait("axis_negative", (2, 5, 4), axis=-2, e=0.1),
    # Segmentation: the class axis is strided, and the inner size no multiple of a vector.
    Trait("kdim_3", (2, 3, 4)),
    Trait("kdim_4", (2, 3, 2, 2), weighted=True),
    Trait("kdim_wide", (2, 21, 83), weighted=True, e=0.1),
    Trait("unbatched", (5,), axis=0),
    Trait("unbatched_weighted", (5,), axis=0, weighted=True, e=0.1),
    # Rows that start at no vector boundary, with a tail.
    Trait("odd_classes", (5, 1021)),
    # Above 65 536: more than any 16-bit index or one block of a row holds.
    Trait("many_classes", (3, 65537)),
    Trait("many_classes_smoothed", (2, 65537), weighted=True, e=0.1),
    # Many short rows: several of them to a thread.
    Trait("many_rows", (1031, 3), weighted=True),
    Trait("smoothed", (6, 10), e=0.1),
    # e = 1: nothing of the target is left.
    Trait("smoothed_fully", (6, 10), e=1.0),
    Trait("smoothed_weighted", (6, 10), weighted=True, e=0.2),
    Trait("zero_weight_at_neg_inf", (6, 5), _zero_weight_at_neg_inf, weighted=True),
    # A weight of 0 takes away an infinite loss, but not one that is not a number.
    Trait("weightless_undefined_rows", (5, 4), _weightless_undefined_rows, weighted=True),
    Trait(
        "weightless_undefined_rows_smoothed",
        (5, 4),
        _weightless_undefined_rows,
        weighted=True,
        e=0.1,
    ),
    Trait("zero_weight_at_neg_inf_smoothed", (6, 5), _zero_weight_at_neg_inf, weighted=True, e=0.1),
)

HARD_ONLY: tuple[Trait, ...] = (
    Trait("some_ignored", (6, 10), _set_labels(0, 4, label=-100)),
    Trait("some_ignored_weighted", (6, 10), _set_labels(1, 2, label=-100), weighted=True),
    # An ignore_index that is also a class: those positions do not count, the class still does.
    Trait("ignore_in_range", (12, 4), ignore_index=2),
    Trait("ignore_in_range_smoothed", (12, 4), weighted=True, ignore_index=0, e=0.15),
    # Cut to 32 bits this is 0: with int32 labels class 0 would be ignored.
    Trait("ignore_beyond_int32", (12, 3), ignore_index=2**32),
    Trait("ignore_minus_one", (6, 10), _set_labels(0, 5, label=-1), ignore_index=-1),
    # The mean is 0/0 = nan, and the gradient nevertheless 0.
    Trait("all_ignored", (4, 5), _set_all_labels(-100)),
    Trait("all_ignored_smoothed", (4, 5), _set_all_labels(-100), weighted=True, e=0.1),
    Trait("none_ignored", (12, 5), _no_label_two, ignore_index=2),
    Trait("first_and_last_class", (6, 10), _first_and_last),
    # An ignored row may hold anything; its logits need not be read.
    Trait("nan_ignored", (6, 5), _nan_ignored),
    Trait("nan_ignored_smoothed", (6, 5), _nan_ignored, e=0.1),
    Trait(
        "smoothed_weighted_ignored", (6, 10), _set_labels(1, 3, label=-100), weighted=True, e=0.1
    ),
    Trait("kdim_ignored", (2, 3, 4), _set_labels(0, 7, label=-100), weighted=True, e=0.2),
    Trait("unbatched_ignored", (5,), _set_all_labels(-100), axis=0),
    # D = 0 with rows that count: 0/0, in the gradient too.
    Trait("zero_hit_weights", (4, 12), _zero_hit_weights, weighted=True),
    # With smoothing the sum is not 0, but the mean of the targets' share is still 0/0.
    Trait("zero_hit_weights_smoothed", (4, 12), _zero_hit_weights, weighted=True, e=0.1),
    # A class that no label names may have any weight.
    Trait("unused_weight_not_finite", (6, 10), _unused_weights, weighted=True),
)

SOFT_ONLY: tuple[Trait, ...] = (
    Trait("one_hot", (6, 10), _one_hot),
    # sum(t) != 1 is legal: the gradient is p sum(t) - t, not p - t.
    Trait("unnormalised", (6, 10), _scaled_probabilities),
    Trait("unnormalised_weighted_smoothed", (6, 10), _scaled_probabilities, weighted=True, e=0.1),
    Trait("zero_row", (4, 5), _zero_probabilities),
    Trait("one_class_unnormalised", (4, 1), _scaled_probabilities),
    Trait("neg_inf_under_probability", (4, 5), _neg_inf_under_probability),
    # The mean is over positions, not weights: 0, not 0/0.
    Trait("zero_weights", (4, 5), _zero_weights, weighted=True),
)

# Where the value itself depends on the dtype.
WIDE_ONLY = Trait("offset_1e8", (6, 5), _offset)
NARROW_ONLY = Trait("offset_1000", (6, 5), _offset_16_bit)
