# SPDX-License-Identifier: MIT
"""Differences that are no number in a table: what the page says, and the tests that say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """One sentence or two of the page, and the names of the tests that assert them."""

    text: str
    tests: tuple[str, ...]


FURTHER: Mapping[str, tuple[Statement, ...]] = {
    "Further artefacts that are not reproduced": (
        Statement(
            "**Paddle** truncates labels beyond int32. Ours are an error.",
            ("test_paddle_truncates_labels", "test_label_out_of_range_beyond_32_bits"),
        ),
        Statement(
            "**Paddle** takes labels that are floating numbers for the loss, and fails at its "
            "gradient. Ours are refused.",
            ("test_paddle_has_no_gradient_of_floating_labels", "test_floating_labels_are_refused"),
        ),
        Statement(
            "**Paddle**'s `softmax_with_cross_entropy` takes labels `[N]` for one class only. Ours "
            "are to be `[N, 1]`.",
            ("test_paddle_takes_flat_labels_of_one_class", "test_flat_labels_are_refused"),
        ),
        Statement(
            "**Paddle** gives a float32 loss for unbatched float32 logits with float64 weights, "
            "and for float64 logits and probabilities with float32 weights. Ours are float64.",
            ("test_paddle_narrows_the_loss", "test_the_widest_dtype_is_the_losses"),
        ),
        Statement(
            "**TensorFlow** under XLA gives nan for a label out of range. Ours is an error.",
            ("test_xla_gives_nan_for_a_bad_label", "test_label_out_of_range"),
        ),
        Statement(
            "**Keras**'s class `SparseCategoricalCrossentropy` casts labels to float32, which "
            "rounds indices above 2**24. Ours stay integers.",
            ("test_keras_rounds_large_labels", "test_large_labels_stay_integers"),
        ),
        Statement(
            "**PyTorch** divides a mean by the labels' class weights where they cancel, too: it is "
            "infinite. Ours is nan.",
            ("test_torch_divides_by_weights_that_cancel", "test_weights_that_cancel_give_nan"),
        ),
        Statement(
            "**TensorFlow** and Keras give a mean of 0 where the weights add up to 0, even if a "
            "loss is nan or infinite. Ours is nan there.",
            ("test_tensorflow_divides_no_nan", "test_a_mean_without_weight_keeps_nan"),
        ),
        Statement(
            "**Keras** gives nan for probabilities (`from_logits=False`) whose sum is nan, "
            "infinite or 0, under labels of 0 too, as nan times 0. In ours a class of label 0 "
            "contributes nothing.",
            ("test_keras_multiplies_nan_by_0", "test_labels_of_0_switch_nan_off"),
        ),
        Statement(
            "**Infinite class weights** make a loss infinite in PyTorch and Paddle, and in the "
            "function body. With the library it can be nan.",
            ("test_infinite_weights_are_infinite_or_nan",),
        ),
        Statement(
            "**Infinite sample weights** of Keras's `SparseCategoricalCrossentropy` make the "
            "gradient at the label -inf, in the function body too. With the library it is nan.",
            (
                "test_keras_weighs_the_gradient_with_inf",
                "test_infinite_sample_weights_give_infinity_or_nan",
            ),
        ),
        Statement(
            "**No classes**: PyTorch and Paddle give nan for logits `[N, 0]` and probabilities. "
            "Ours are refused.",
            ("test_torch_gives_nan_without_classes", "test_no_classes_are_refused"),
        ),
        Statement(
            "**Gradients** are by the logits and by label probabilities. Those by class weights "
            "and sample weights are not exported.",
            ("test_gradients_are_of_logits_and_labels",),
        ),
    ),
    "The sampled softmax": (
        Statement(
            "With a seed the library draws Paddle's own samples.",
            ("test_the_kernel_draws_paddles_samples", "test_the_kernel_draws_what_paddle_drew"),
        ),
        Statement(
            "TensorFlow's samples are given as `sampled_values`, as in TensorFlow.",
            ("test_loss_and_gradient_equal_tensorflow",),
        ),
        Statement(
            "Of a sample that repeats and hits a true class, TensorFlow removes the last copy. "
            "Ours removes all.",
            ("test_tensorflow_removes_one_copy", "test_all_copies_of_a_hit_are_removed"),
        ),
        Statement(
            "The function body draws from the same distribution, but other samples than the "
            "library's.",
            (
                "test_samples_of_each_seed_are_distributed_as_they_should",
                "test_the_body_draws_other_samples",
            ),
        ),
        Statement(
            "The input `probabilities` is float32 with 16-bit logits.",
            ("test_probabilities_of_16_bit_logits_are_float32",),
        ),
    ),
}
