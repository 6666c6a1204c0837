# SPDX-License-Identifier: MIT
"""What a mean divides by, and what it is where that is 0."""

from __future__ import annotations

from typing import Any

from tests.drafts import (
    Change,
    Trait,
    set_all_labels,
    set_labels,
    set_sample_weights,
    unchanged,
    weighted_and_ignored,
    zero_hit_weights,
)
from tests.option_traits import POSITION

EMPTY_MEANS = ("nan", "sum", "zero")
SOME_ZERO = set_sample_weights(0.5, 0, 1.5)


def mean(name: str, shape: tuple[int, ...], change: Change = unchanged, **fields: Any) -> Trait:
    """A trait that only a mean shows."""
    return Trait(name, shape, change, reductions=("mean",), **fields)


def empty_means(
    name: str, shape: tuple[int, ...], change: Change, mean_over: tuple[str, ...], **fields: Any
) -> tuple[Trait, ...]:
    """One way to D = 0 with each denominator that it makes 0, and each answer to it."""
    options = fields.pop("options", {})
    return tuple(
        mean(
            f"{name}_{over}_{empty}",
            shape,
            change,
            options={**options, "mean_over": over, "empty_mean": empty},
            **fields,
        )
        for over in mean_over
        for empty in EMPTY_MEANS
    )


HARD_MEANS: tuple[Trait, ...] = (
    *(
        mean(f"mean_over_{over}{name}", (7, 10), change, options={"mean_over": over}, **fields)
        for over in ("weights", "positions", "valid", "nonzero")
        for name, change, fields in (
            ("", unchanged, {}),
            ("_ignored", set_labels(0, 4, label=-100), {"weighted": True, "e": 0.1}),
            ("_sampled", weighted_and_ignored, {"weighted": True, "sampled": True}),
        )
    ),
    *(
        mean(
            f"mean_over_{over}_position",
            (7, 10),
            weighted_and_ignored,
            weighted=True,
            e=0.1,
            sampled=True,
            options={**POSITION, "mean_over": over},
        )
        for over in ("weights", "nonzero")
    ),
    *empty_means(
        "all_ignored",
        (4, 5),
        set_all_labels(-100),
        ("weights", "valid", "nonzero"),
        weighted=True,
        sampled=True,
    ),
    # N is not 0: a mean of nothing over four positions.
    mean("all_ignored_positions", (4, 5), set_all_labels(-100), options={"mean_over": "positions"}),
    *empty_means(
        "no_positions", (0, 5), unchanged, ("weights", "positions", "valid", "nonzero"), e=0.1
    ),
    # Smoothing gives the sum a value.
    *empty_means("no_hit", (4, 12), zero_hit_weights, ("weights",), weighted=True, e=0.1),
    *empty_means("no_weight", (4, 5), set_sample_weights(0), ("weights", "nonzero"), sampled=True),
    *empty_means("cancelled", (4, 5), set_sample_weights(1, -1), ("weights",), sampled=True),
    *empty_means(
        "no_position_weight",
        (4, 12),
        zero_hit_weights,
        ("weights",),
        weighted=True,
        options=POSITION,
    ),
)

SOFT_MEANS: tuple[Trait, ...] = (
    *(
        mean(f"mean_over_{over}{name}", (7, 10), change, options={"mean_over": over}, **fields)
        for over in ("positions", "weights", "nonzero")
        for name, change, fields in (
            ("", unchanged, {}),
            ("_weighted", unchanged, {"weighted": True, "e": 0.1}),
            ("_sampled", SOME_ZERO, {"weighted": True, "sampled": True}),
        )
    ),
    mean(
        "mean_over_weights_position",
        (7, 10),
        SOME_ZERO,
        weighted=True,
        e=0.1,
        sampled=True,
        options={**POSITION, "mean_over": "weights"},
    ),
    *empty_means("no_positions", (0, 5), unchanged, ("positions", "weights", "nonzero"), e=0.1),
    *empty_means("no_weight", (4, 5), set_sample_weights(0), ("weights", "nonzero"), sampled=True),
    *empty_means("cancelled", (4, 5), set_sample_weights(1, -1), ("weights",), sampled=True),
    # One-hot labels of classes without weight.
    *empty_means(
        "no_position_weight",
        (4, 12),
        zero_hit_weights,
        ("weights",),
        weighted=True,
        options=POSITION,
    ),
)
