# SPDX-License-Identifier: MIT
"""What the losses' further options are tried on: sample weights, means, probabilities, z, caps."""

from __future__ import annotations

import numpy as np

from tests.drafts import (
    Change,
    Trait,
    confident_probabilities,
    gap_1000,
    in_turn,
    infinite_weight,
    margin_20,
    nan_ignored,
    nan_probabilities,
    no_probabilities,
    not_finite,
    offset,
    offset_16_bit,
    probabilities,
    scale_logits,
    scaled_probabilities,
    set_all_labels,
    set_labels,
    set_logit,
    set_sample_weights,
    unchanged,
    undefined_rows,
    unnormalised_probabilities,
    unused_weights,
    weighted_and_ignored,
    zero_and_one,
    zero_first_hit_weight,
    zero_hit_weights,
    zero_weight_at_neg_inf,
)

WIDE = ("float32", "float64")
POSITION = {"class_weighting": "position"}
PROBABILITIES = {"from_logits": 0}
ORDERS = ("before_clip", "after_clip")

SAMPLE_WEIGHTS: tuple[Trait, ...] = (
    # Without class weights the input before this one is left out.
    Trait("sample_weights", (6, 10), sampled=True, lse=True),
    Trait("sample_weights_weighted", (6, 10), weighted=True, sampled=True),
    Trait("sample_weights_smoothed", (6, 10), weighted=True, e=0.1, sampled=True, lse=True),
    Trait("sample_weights_some_zero", (6, 10), set_sample_weights(0, 1.5, 0.5), sampled=True),
    Trait("sample_weights_all_zero", (4, 5), set_sample_weights(0), sampled=True),
    # Legal, however strange: D may be negative too.
    Trait("sample_weights_negative", (6, 10), set_sample_weights(-2, 0.5, -1), sampled=True),
    # Positions before and behind the class axis, in one block and in several.
    Trait("sample_weights_axis_first", (5, 4), axis=0, sampled=True, lse=True),
    Trait("sample_weights_axis_negative", (2, 5, 4), axis=-2, weighted=True, sampled=True),
    Trait("sample_weights_kdim", (2, 3, 2, 2), sampled=True, lse=True),
    Trait("sample_weights_kdim_wide", (2, 21, 83), weighted=True, e=0.1, sampled=True, lse=True),
    Trait("sample_weights_many_rows", (1031, 3), weighted=True, sampled=True, lse=True),
    Trait("sample_weights_unbatched", (5,), axis=0, sampled=True, lse=True),
    Trait("sample_weights_empty_batch", (0, 5), sampled=True, lse=True),
    # A weight of 0 takes an infinite loss away, but not one that is not a number.
    Trait(
        "weightless_infinite_loss",
        (6, 5),
        in_turn(set_logit(-np.inf, at_target=True), set_sample_weights(0, 0, 2)),
        sampled=True,
    ),
    Trait(
        "weightless_infinite_loss_smoothed",
        (6, 5),
        in_turn(set_logit(-np.inf, at_target=False), set_sample_weights(0, 0, 2)),
        e=0.1,
        sampled=True,
    ),
    Trait(
        "weightless_undefined_positions",
        (5, 4),
        in_turn(undefined_rows, set_sample_weights(0, 0, 0, 0, 2)),
        sampled=True,
        lse=True,
    ),
)

CLASS_WEIGHTING: tuple[Trait, ...] = (
    Trait("position_weights", (6, 10), weighted=True, options=POSITION),
    Trait("position_weights_absent", (6, 10), options=POSITION),
    Trait("position_weights_smoothed", (6, 10), weighted=True, e=0.2, options=POSITION),
    Trait("position_weights_sampled", (2, 3, 4), weighted=True, sampled=True, options=POSITION),
    Trait("position_weights_wide", (2, 21, 83), weighted=True, e=0.1, options=POSITION),
    # u_i = 0 takes an infinite loss away like a sample weight of 0.
    Trait(
        "position_weights_zero",
        (6, 5),
        in_turn(set_logit(-np.inf, at_target=True), zero_first_hit_weight),
        weighted=True,
        options=POSITION,
    ),
    # w = 0 at the masked class gives it no coefficient of 0 here: it is u that holds w.
    Trait(
        "position_weights_smoothed_neg_inf",
        (6, 5),
        zero_weight_at_neg_inf,
        weighted=True,
        e=0.1,
        options=POSITION,
    ),
)

FROM_PROBABILITIES: tuple[Trait, ...] = (
    Trait("probabilities", (6, 10), probabilities, options=PROBABILITIES, lse=True),
    # A mean without a divisor.
    Trait(
        "probabilities_weightless",
        (4, 5),
        in_turn(probabilities, set_sample_weights(0)),
        sampled=True,
        options=PROBABILITIES,
    ),
    Trait(
        "probabilities_smoothed",
        (6, 10),
        probabilities,
        weighted=True,
        e=0.1,
        options=PROBABILITIES,
    ),
    Trait(
        "probabilities_sampled",
        (2, 3, 4),
        probabilities,
        weighted=True,
        sampled=True,
        options=PROBABILITIES,
    ),
    Trait(
        "probabilities_position",
        (6, 10),
        probabilities,
        weighted=True,
        e=0.1,
        options={**PROBABILITIES, **POSITION},
    ),
    # Nothing is normalised: neither the value nor the gradient knows a sum.
    Trait("probabilities_unnormalised", (6, 10), unnormalised_probabilities, options=PROBABILITIES),
    # There is no lse to square.
    Trait(
        "probabilities_z_loss",
        (6, 10),
        probabilities,
        options={**PROBABILITIES, "z_loss": 0.5},
        lse=True,
    ),
    # 0 off the target adds nothing; log(1) is 0.
    Trait(
        "probabilities_zero_and_one",
        (6, 5),
        in_turn(probabilities, zero_and_one),
        options=PROBABILITIES,
    ),
    # At the target: a loss of +inf and a gradient of -inf.
    Trait(
        "probabilities_zero_at_target",
        (6, 5),
        in_turn(probabilities, set_logit(0.0, at_target=True)),
        options=PROBABILITIES,
    ),
    # A weight of 0 takes both of them away.
    Trait(
        "probabilities_zero_weightless",
        (6, 5),
        in_turn(probabilities, set_logit(0.0, at_target=True), set_sample_weights(0, 0, 2)),
        sampled=True,
        options=PROBABILITIES,
    ),
    # There is no row to be undefined, only the terms that have a coefficient.
    Trait(
        "probabilities_nan",
        (4, 5),
        in_turn(probabilities, nan_probabilities),
        options=PROBABILITIES,
        lse=True,
    ),
    Trait("probabilities_wide", (2, 21, 83), probabilities, e=0.1, options=PROBABILITIES),
    Trait(
        "probabilities_many_classes", (3, 65537), unnormalised_probabilities, options=PROBABILITIES
    ),
    Trait("probabilities_unbatched", (5,), probabilities, axis=0, options=PROBABILITIES, lse=True),
    Trait("probabilities_empty_batch", (0, 5), options=PROBABILITIES, lse=True),
)


def normalized(order: str) -> tuple[Trait, ...]:
    """Probabilities that are divided by their sum, and clipped to bounds that are exact."""
    name = f"normalized_{order}"
    options = {**PROBABILITIES, "normalize": order, "epsilon": 2.0**-10}
    change = unnormalised_probabilities
    return (
        Trait(name, (6, 10), change, options=options, lse=True),
        Trait(f"{name}_smoothed", (6, 10), change, weighted=True, e=0.1, options=options),
        Trait(f"{name}_sampled", (2, 3, 4), change, weighted=True, sampled=True, options=options),
        Trait(
            f"{name}_position", (6, 10), change, weighted=True, e=0.1, options=options | POSITION
        ),
        # No class is clipped, and none at a bound: what softmax makes of the logarithms.
        Trait(f"{name}_unclipped", (6, 10), change, options=options | {"epsilon": 0.0}),
        Trait(
            f"{name}_clipped",
            (6, 10),
            confident_probabilities,
            weighted=True,
            e=0.1,
            options=options | {"epsilon": 0.0625},
            lse=True,
        ),
        # Both bounds are one number, and no gradient is left.
        Trait(f"{name}_clipped_half", (6, 5), change, options=options | {"epsilon": 0.5}, lse=True),
        # Means without a divisor.
        Trait(
            f"{name}_weightless",
            (4, 5),
            in_turn(change, set_sample_weights(0)),
            sampled=True,
            options=options,
        ),
        Trait(f"{name}_z_loss", (6, 10), change, options=options | {"z_loss": 0.125}, lse=True),
        Trait(f"{name}_no_sum", (6, 5), no_probabilities, options=options, lse=True),
        Trait(
            f"{name}_no_sum_unclipped",
            (6, 5),
            no_probabilities,
            options=options | {"epsilon": 0.0},
            lse=True,
        ),
        Trait(
            f"{name}_no_sum_no_hit",
            (4, 12),
            in_turn(no_probabilities, zero_hit_weights),
            weighted=True,
            options=options | {"epsilon": 0.0},
        ),
        Trait(
            f"{name}_nan",
            (4, 5),
            in_turn(change, nan_probabilities),
            options=options,
            lse=True,
        ),
        Trait(f"{name}_axis_first", (5, 4), change, axis=0, options=options, lse=True),
        Trait(f"{name}_axis_last", (2, 3, 37), change, axis=-1, options=options, lse=True),
        Trait(f"{name}_wide", (2, 21, 83), change, e=0.1, options=options, lse=True),
        Trait(f"{name}_many_classes", (3, 65537), change, options=options | {"epsilon": 1e-7}),
        Trait(f"{name}_unbatched", (5,), change, axis=0, options=options, lse=True),
        Trait(f"{name}_empty_batch", (0, 5), options=options, lse=True),
    )


NORMALIZED = tuple(trait for order in ORDERS for trait in normalized(order))

SCORES: tuple[Trait, ...] = (
    Trait("z_loss", (6, 10), options={"z_loss": 0.125}, lse=True),
    Trait("z_loss_smoothed", (6, 10), weighted=True, e=0.1, options={"z_loss": 0.0078125}),
    Trait("z_loss_sampled", (2, 3, 4), sampled=True, options={"z_loss": 0.125}),
    # u_i weighs the square too; w_c does not: it stays where every coefficient is 0.
    Trait("z_loss_position", (6, 10), weighted=True, options={**POSITION, "z_loss": 0.125}),
    Trait(
        "z_loss_zero_weights", (4, 12), zero_hit_weights, weighted=True, options={"z_loss": 0.125}
    ),
    Trait("z_loss_wide", (2, 21, 83), weighted=True, options={"z_loss": 0.125}),
    # All of the loss is the square of the only logit.
    Trait("z_loss_one_class", (4, 1), options={"z_loss": 0.125}, lse=True),
    Trait("z_loss_offset_1000", (6, 5), offset_16_bit, options={"z_loss": 2.0**-13}, lse=True),
    Trait("z_loss_neg_inf", (6, 5), set_logit(-np.inf, at_target=False), options={"z_loss": 0.125}),
    # Beyond the cap almost everywhere, within it, and far within it.
    Trait("softcap_small", (6, 10), options={"logit_softcap": 0.5}, lse=True),
    Trait("softcap_30", (6, 10), scale_logits(10.0), options={"logit_softcap": 30.0}, lse=True),
    Trait("softcap_large", (6, 10), options={"logit_softcap": 1e4}),
    # tanh is 1: a loss of up to two caps, and no gradient.
    Trait("softcap_saturated", (6, 5), gap_1000, options={"logit_softcap": 5.0}),
    # What is infinite is cap or -cap: no row but one of nan is undefined.
    Trait("softcap_not_finite", (6, 5), not_finite, options={"logit_softcap": 2.0}, lse=True),
    Trait("softcap_smoothed", (6, 10), weighted=True, e=0.1, options={"logit_softcap": 4.0}),
    Trait("softcap_z_loss", (2, 3, 4), options={"logit_softcap": 4.0, "z_loss": 0.125}, lse=True),
    Trait("softcap_wide", (2, 21, 83), weighted=True, options={"logit_softcap": 4.0}),
    Trait("softcap_axis_first", (5, 4), axis=0, sampled=True, options={"logit_softcap": 4.0}),
    # The output lse of rows that are hard elsewhere.
    Trait("lse_undefined_rows", (5, 4), undefined_rows, lse=True),
    Trait("lse_gap_1000", (6, 5), gap_1000, lse=True),
    Trait("lse_margin_20", (6, 2), margin_20, lse=True),
    Trait("lse_offset_1e8", (6, 5), offset, lse=True, dtypes=WIDE),
    Trait("lse_kdim_wide", (2, 21, 83), lse=True),
    Trait("lse_many_classes", (3, 65537), lse=True),
)


def everything(name: str, shape: tuple[int, ...], mean_over: str, change: Change) -> Trait:
    """All options at once."""
    options = {**POSITION, "mean_over": mean_over, "z_loss": 0.0078125, "logit_softcap": 8.0}
    return Trait(name, shape, change, weighted=True, e=0.1, sampled=True, lse=True, options=options)


SHARED_OPTIONS = (*SAMPLE_WEIGHTS, *CLASS_WEIGHTING, *FROM_PROBABILITIES, *NORMALIZED, *SCORES)

HARD_OPTIONS: tuple[Trait, ...] = (
    # An ignored position may have any weight, and its lse is there nevertheless.
    Trait("sample_weights_ignored", (6, 10), weighted_and_ignored, sampled=True, lse=True),
    Trait("lse_ignored", (2, 3, 4), set_labels(0, 7, label=-100), lse=True),
    Trait("lse_nan_ignored", (6, 5), nan_ignored, lse=True),
    Trait("lse_all_ignored", (4, 5), set_all_labels(-100), lse=True),
    Trait("z_loss_ignored", (6, 10), set_labels(1, 3, label=-100), options={"z_loss": 0.125}),
    Trait("z_loss_nan_ignored", (6, 5), nan_ignored, options={"z_loss": 0.125}, lse=True),
    Trait("softcap_ignored", (6, 5), nan_ignored, options={"logit_softcap": 3.0}, lse=True),
    Trait(
        "probabilities_ignored",
        (6, 5),
        in_turn(probabilities, nan_ignored),
        weighted=True,
        options=PROBABILITIES,
        lse=True,
    ),
    *(
        Trait(
            f"normalized_{order}_ignored",
            (6, 5),
            in_turn(unnormalised_probabilities, nan_ignored),
            weighted=True,
            e=0.1,
            options={**PROBABILITIES, "normalize": order},
            lse=True,
        )
        for order in ORDERS
    ),
    Trait(
        "position_weights_ignored",
        (6, 10),
        set_labels(1, 3, label=-100),
        weighted=True,
        e=0.1,
        options=POSITION,
    ),
    # A class that no label names may have any weight.
    Trait(
        "position_unused_weight_not_finite",
        (6, 10),
        unused_weights,
        weighted=True,
        options=POSITION,
    ),
    everything("everything", (6, 10), "nonzero", weighted_and_ignored),
    everything("everything_wide", (2, 21, 83), "valid", weighted_and_ignored),
    everything("everything_many_classes", (4, 65537), "weights", weighted_and_ignored),
    # Smoothing gives every class a coefficient, which an ignored row has no use for.
    *(
        Trait(
            f"infinite_weight_ignored{name}",
            shape,
            in_turn(set_all_labels(-100), infinite_weight),
            weighted=True,
            e=0.1,
        )
        for name, shape in (("", (6, 10)), ("_wide", (2, 21, 83)), ("_rows", (3, 100)))
    ),
)

SOFT_OPTIONS: tuple[Trait, ...] = (
    # u_i is a weighted sum of labels that need not add up to 1, also with no weights but 1.
    Trait(
        "position_weights_unnormalised",
        (6, 10),
        scaled_probabilities,
        weighted=True,
        e=0.1,
        options=POSITION,
    ),
    Trait("position_unnormalised", (6, 10), scaled_probabilities, options=POSITION),
    Trait(
        "z_loss_unnormalised",
        (6, 10),
        scaled_probabilities,
        weighted=True,
        options={"z_loss": 0.125},
    ),
    everything("everything", (7, 10), "nonzero", set_sample_weights(0.5, 0, -1.5)),
    everything("everything_wide", (2, 21, 83), "weights", unchanged),
    everything("everything_many_classes", (3, 65537), "weights", unchanged),
)
