# SPDX-License-Identifier: MIT
"""What a row of the tables of traits is made of: a draft of inputs, and changes to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Draft:
    """The inputs of a case while its trait still changes them, with the class axis last."""

    rng: np.random.Generator
    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None
    sample_weights: np.ndarray | None


Change = Callable[[Draft], None]


def unchanged(draft: Draft) -> None:
    """No change."""


@dataclass(frozen=True, eq=False)
class Trait:
    """What is particular about a case: its shape, its settings, and a change to its inputs.

    `options` are further attributes; `sampled` says that there are sample weights, `lse` that the
    output of this name is asked for.
    """

    name: str
    shape: tuple[int, ...]
    change: Change = unchanged
    axis: int = 1
    weighted: bool = False
    e: float = 0.0
    ignore_index: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sampled: bool = False
    lse: bool = False
    reductions: tuple[str, ...] = ("mean", "sum", "none")
    dtypes: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")

    @property
    def settings(self) -> dict[str, Any]:
        """The attributes that differ from their defaults."""
        given = {"label_smoothing": self.e or None, "ignore_index": self.ignore_index}
        given |= self.options
        return {name: value for name, value in given.items() if value is not None}


def in_turn(*changes: Change) -> Change:
    """Each change on what the one before it left."""

    def change(draft: Draft) -> None:
        for one in changes:
            one(draft)

    return change


def set_labels(*positions: int, label: int) -> Change:
    def change(draft: Draft) -> None:
        draft.labels.reshape(-1)[list(positions)] = label

    return change


def set_all_labels(label: int) -> Change:
    def change(draft: Draft) -> None:
        draft.labels[...] = label

    return change


def first_and_last(draft: Draft) -> None:
    draft.labels[0::2] = 0
    draft.labels[1::2] = draft.logits.shape[-1] - 1


def no_label_two(draft: Draft) -> None:
    draft.labels[draft.labels == 2] = 3


def one_hot(draft: Draft) -> None:
    draft.labels = np.eye(draft.logits.shape[-1])[draft.labels.argmax(-1)]


def target_of(draft: Draft) -> np.ndarray:
    """An integer label for each row, whichever kind of labels the loss has."""
    if draft.labels.shape == draft.logits.shape:
        one_hot(draft)
        return draft.labels.argmax(-1)
    return draft.labels


def gap_1000(draft: Draft) -> None:
    target = target_of(draft)
    draft.logits[...] = 0.0
    rows = np.arange(len(target))
    draft.logits[rows, target] = np.where(rows % 2, 1000.0, -1000.0)


def margin_20(draft: Draft) -> None:
    target = target_of(draft)
    draft.logits[...] = 0.0
    draft.logits[np.arange(len(target)), target] = 20.0


def offset(draft: Draft) -> None:
    # Multiples of 8 are exact in float32 at 1e8, so that the gaps are what they were before.
    draft.logits[...] = 1e8 + 8 * draft.rng.integers(-2, 3, draft.logits.shape)


def offset_16_bit(draft: Draft) -> None:
    # 1e8 is beyond float16; at 1000 bfloat16 has steps of 4.
    draft.logits[...] = 1000 + 4 * draft.rng.integers(-2, 3, draft.logits.shape)


def equal_logits(draft: Draft) -> None:
    draft.logits[...] = 0.5


def rising_after_neg_inf(draft: Draft) -> None:
    """The first class is masked, and the maximum is found anew in every part of the classes."""
    draft.logits += (np.arange(draft.logits.shape[-1]) // 50).astype(draft.logits.dtype)
    draft.logits[..., 0] = -np.inf
    draft.labels[draft.labels == 0] = 1


def set_logit(value: float, *, at_target: bool, rows: slice = slice(0, 2)) -> Change:
    def change(draft: Draft) -> None:
        target = target_of(draft)
        for row in range(*rows.indices(len(target))):
            classes = draft.logits.shape[-1]
            column = target[row] if at_target else (target[row] + 1) % classes
            draft.logits[row, column] = value

    return change


def neg_inf_under_probability(draft: Draft) -> None:
    draft.logits[1, 2] = -np.inf


def neg_inf_row(draft: Draft) -> None:
    draft.logits[1] = -np.inf


def nan_ignored(draft: Draft) -> None:
    draft.labels[[1, 3, 4]] = -100
    draft.logits[1, 2] = np.nan
    draft.logits[3] = np.inf
    draft.logits[4] = -np.inf


def zero_hit_weights(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[np.unique(target_of(draft))] = 0.0


def zero_weights(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[...] = 0.0


def zero_weight_at_neg_inf(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[2] = 0.0
    draft.logits[0, 2] = -np.inf
    if draft.labels.shape != draft.logits.shape:
        draft.labels[0] = 2


def weightless_undefined_rows(draft: Draft) -> None:
    zero_weights(draft)
    undefined_rows(draft)


def unused_weights(draft: Draft) -> None:
    assert draft.weights is not None
    draft.labels[draft.labels <= 1] = 5
    draft.weights[:2] = np.nan, np.inf


def infinite_weight(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[1] = np.inf


def scaled_probabilities(draft: Draft) -> None:
    draft.labels *= draft.rng.uniform(0.0, 3.0, (*draft.labels.shape[:-1], 1))


def zero_probabilities(draft: Draft) -> None:
    draft.labels[1] = 0.0


def set_sample_weights(*values: float) -> Change:
    """These, over and over."""

    def change(draft: Draft) -> None:
        assert draft.sample_weights is not None
        draft.sample_weights[...] = np.resize(values, draft.sample_weights.shape)

    return change


def probabilities(draft: Draft) -> None:
    # None below 0.001, so that -1/p stays within float16.
    draft.logits[...] = np.exp(draft.logits / 3)
    draft.logits /= draft.logits.sum(axis=-1, keepdims=True)


def unnormalised_probabilities(draft: Draft) -> None:
    draft.logits[...] = draft.rng.uniform(0.01, 2.0, draft.logits.shape)


def confident_probabilities(draft: Draft) -> None:
    """Beyond both bounds of a clip in every other row, as long as these leave some space."""
    unnormalised_probabilities(draft)
    target, classes = target_of(draft), draft.logits.shape[-1]
    rows = np.arange(0, len(target), 2)
    draft.logits[rows] /= 64 * classes
    draft.logits[rows, target[rows]] = 1.0


def no_probabilities(draft: Draft) -> None:
    """Rows that add up to nothing."""
    unnormalised_probabilities(draft)
    draft.logits[:2] = 0.0


def zero_and_one(draft: Draft) -> None:
    label = target_of(draft)
    draft.logits[:2] = 0.0
    draft.logits[[0, 1], label[:2]] = 1.0


def nan_probabilities(draft: Draft) -> None:
    label, classes = target_of(draft), draft.logits.shape[-1]
    draft.logits[0, (label[0] + 1) % classes] = np.nan
    draft.logits[1, label[1]] = np.nan


def undefined_rows(draft: Draft) -> None:
    draft.logits[0, 1] = np.nan
    draft.logits[1, 2] = np.inf
    draft.logits[2] = -np.inf


def not_finite(draft: Draft) -> None:
    """Of each kind one, at the target and off it."""
    label, classes = target_of(draft), draft.logits.shape[-1]
    draft.logits[0, label[0]] = -np.inf
    draft.logits[1, (label[1] + 1) % classes] = -np.inf
    draft.logits[2, label[2]] = np.inf
    draft.logits[3, (label[3] + 1) % classes] = np.inf
    draft.logits[4] = -np.inf
    draft.logits[5, label[5]] = np.nan


def scale_logits(factor: float) -> Change:
    def change(draft: Draft) -> None:
        draft.logits *= factor

    return change


def weighted_and_ignored(draft: Draft) -> None:
    """Sample weights of every kind; positions whose weight is not finite are ignored."""
    set_sample_weights(0.5, np.nan, 1.5, 0, np.inf, 0.25)(draft)
    draft.labels[~np.isfinite(draft.sample_weights)] = -100


def zero_first_hit_weight(draft: Draft) -> None:
    assert draft.weights is not None
    draft.weights[target_of(draft)[0]] = 0.0
