# SPDX-License-Identifier: MIT
"""What losses are tried on: shapes, settings and changes to random inputs, with the reasons."""

from __future__ import annotations

import numpy as np

from tests.drafts import (
    Trait,
    equal_logits,
    first_and_last,
    gap_1000,
    margin_20,
    nan_ignored,
    neg_inf_row,
    neg_inf_under_probability,
    no_label_two,
    offset,
    offset_16_bit,
    one_hot,
    rising_after_neg_inf,
    scaled_probabilities,
    set_all_labels,
    set_labels,
    set_logit,
    unused_weights,
    weightless_undefined_rows,
    zero_hit_weights,
    zero_probabilities,
    zero_weight_at_neg_inf,
    zero_weights,
)

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
    Trait("gap_1000", (6, 5), gap_1000),
    # log(1 + 2e-9): lse - x_target rounds it to 0 in float32.
    Trait("margin_20", (6, 2), margin_20),
    # Masked classes: legal, and without a gradient.
    Trait("neg_inf_off_target", (6, 5), set_logit(-np.inf, at_target=False)),
    Trait("neg_inf_at_target", (6, 5), set_logit(-np.inf, at_target=True)),
    # Smoothing gives a masked class a coefficient: the loss is +inf, the gradient finite.
    Trait("neg_inf_smoothed", (6, 5), set_logit(-np.inf, at_target=False), e=0.1),
    Trait("neg_inf_smoothed_long", (2, 2, 600), rising_after_neg_inf, axis=2, e=0.1),
    Trait("neg_inf_smoothed_kdim", (2, 600, 3), rising_after_neg_inf, e=0.1),
    Trait("neg_inf_row", (4, 5), neg_inf_row),
    Trait("pos_inf", (4, 5), set_logit(np.inf, at_target=False)),
    Trait("pos_inf_at_target", (4, 5), set_logit(np.inf, at_target=True)),
    Trait("nan_row", (4, 5), set_logit(np.nan, at_target=False)),
    # The maximum is not unique: log(C) must come out whichever one is taken.
    Trait("equal_logits", (3, 7), equal_logits),
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
    Trait("zero_weight_at_neg_inf", (6, 5), zero_weight_at_neg_inf, weighted=True),
    # A weight of 0 takes away an infinite loss, but not one that is not a number.
    Trait("weightless_undefined_rows", (5, 4), weightless_undefined_rows, weighted=True),
    Trait(
        "weightless_undefined_rows_smoothed",
        (5, 4),
        weightless_undefined_rows,
        weighted=True,
        e=0.1,
    ),
    Trait("zero_weight_at_neg_inf_smoothed", (6, 5), zero_weight_at_neg_inf, weighted=True, e=0.1),
)

HARD_ONLY: tuple[Trait, ...] = (
    Trait("some_ignored", (6, 10), set_labels(0, 4, label=-100)),
    Trait("some_ignored_weighted", (6, 10), set_labels(1, 2, label=-100), weighted=True),
    # An ignore_index that is also a class: those positions do not count, the class still does.
    Trait("ignore_in_range", (12, 4), ignore_index=2),
    Trait("ignore_in_range_smoothed", (12, 4), weighted=True, ignore_index=0, e=0.15),
    # Cut to 32 bits this is 0: with int32 labels class 0 would be ignored.
    Trait("ignore_beyond_int32", (12, 3), ignore_index=2**32),
    Trait("ignore_minus_one", (6, 10), set_labels(0, 5, label=-1), ignore_index=-1),
    # The mean is 0/0 = nan, and the gradient nevertheless 0.
    Trait("all_ignored", (4, 5), set_all_labels(-100)),
    Trait("all_ignored_smoothed", (4, 5), set_all_labels(-100), weighted=True, e=0.1),
    Trait("none_ignored", (12, 5), no_label_two, ignore_index=2),
    Trait("first_and_last_class", (6, 10), first_and_last),
    # An ignored row may hold anything; its logits need not be read.
    Trait("nan_ignored", (6, 5), nan_ignored),
    Trait("nan_ignored_smoothed", (6, 5), nan_ignored, e=0.1),
    Trait("smoothed_weighted_ignored", (6, 10), set_labels(1, 3, label=-100), weighted=True, e=0.1),
    Trait("kdim_ignored", (2, 3, 4), set_labels(0, 7, label=-100), weighted=True, e=0.2),
    Trait("unbatched_ignored", (5,), set_all_labels(-100), axis=0),
    # D = 0 with rows that count: 0/0, in the gradient too.
    Trait("zero_hit_weights", (4, 12), zero_hit_weights, weighted=True),
    # With smoothing the sum is not 0, but the mean of the targets' share is still 0/0.
    Trait("zero_hit_weights_smoothed", (4, 12), zero_hit_weights, weighted=True, e=0.1),
    # A class that no label names may have any weight.
    Trait("unused_weight_not_finite", (6, 10), unused_weights, weighted=True),
)

SOFT_ONLY: tuple[Trait, ...] = (
    Trait("one_hot", (6, 10), one_hot),
    # sum(t) != 1 is legal: the gradient is p sum(t) - t, not p - t.
    Trait("unnormalised", (6, 10), scaled_probabilities),
    Trait("unnormalised_weighted_smoothed", (6, 10), scaled_probabilities, weighted=True, e=0.1),
    Trait("zero_row", (4, 5), zero_probabilities),
    Trait("one_class_unnormalised", (4, 1), scaled_probabilities),
    Trait("neg_inf_under_probability", (4, 5), neg_inf_under_probability),
    # The mean is over positions, not weights: 0, not 0/0.
    Trait("zero_weights", (4, 5), zero_weights, weighted=True),
)

# Where the value itself depends on the dtype.
WIDE_ONLY = Trait("offset_1e8", (6, 5), offset)
NARROW_ONLY = Trait("offset_1000", (6, 5), offset_16_bit)
