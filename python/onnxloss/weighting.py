# SPDX-License-Identifier: MIT
"""How sample weights of the shape that a framework takes meet the operator's positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .config import LossConfig
from .errors import expected, expected_shape
from .layout import Shape


@dataclass(frozen=True)
class SampleWeights:
    """The sample weights of one loss in a graph.

    Attributes:
        given: Their shape as they are given.
        aligned: The shape that broadcasts to the positions: `given`, or that with a last axis of
            size 1 more or less.
        by_sum: Whether they are divided by their sum, as given.
    """

    given: Shape
    aligned: Shape
    by_sum: bool = False


def settled(
    config: LossConfig, positions: Shape, *, last_axis: bool, given: Shape | None
) -> tuple[LossConfig, SampleWeights | None]:
    """The loss and its weights where the positions and the weights have these shapes.

    Args:
        config: The loss, which may be reduced otherwise where the shapes ask for it.
        positions: The logits' shape without the class axis.
        last_axis: Whether the class axis is the last.
        given: Shape of the input of sample weights, if there is one.

    Raises:
        LossError: The loss does not take sample weights, or not of this shape.
    """
    constant = isinstance(config.sample_weights, np.ndarray)
    if given is not None and (constant or not config.sample_weights):
        reason = f"none beside the constant ones of {config.source}" if constant else "none"
        raise expected(config.op, "sample_weights", given, f"{reason}, which {config.source} takes")
    if constant:
        given = config.sample_weights.shape
    if not config.weighted_as_arrays:
        if given is None:
            return config, None
        ones = tuple(1 if size == 1 else at for size, at in zip(given, positions, strict=False))
        if given != () and not (len(given) == len(positions) and _broadcasts(given, positions)):
            whole = ones if len(given) == len(positions) else positions
            raise expected_shape(config.op, "sample_weights", given, (), whole)
        return config, SampleWeights(given, given)
    return _as_arrays(config, positions, last_axis, given)


def _as_arrays(
    config: LossConfig, positions: Shape, last_axis: bool, given: Shape | None
) -> tuple[LossConfig, SampleWeights | None]:
    """Keras's rules: an axis of size 1 comes or goes where the ranks differ by one."""
    reduction, mean_over = config.attributes["reduction"], config.attributes["mean_over"]
    loss_axis, weights = config.loss_axis, None
    unreduced = positions in ((), (0,))
    if given is not None:
        aligned = given
        if len(given) == len(positions) + 1 and given[-1] == 1:
            aligned = given[:-1]
            if len(positions) == 1:
                unreduced = False
                if reduction == "none" and not last_axis:
                    raise expected_shape(config.op, "sample_weights", given, positions)
                loss_axis = "kept"
        elif len(given) + 1 == len(positions) and positions[-1] == 1:
            aligned = (*given, 1)
            if given == ():
                # Keras drops the only position's axis, and does not reduce what is left.
                reduction = "sum"
            elif len(given) > 1 and reduction == "none":
                raise expected_shape(config.op, "sample_weights", given, positions)
        if not _broadcasts(aligned, positions):
            raise expected_shape(config.op, "sample_weights", given, (), positions)
        by_sum = (reduction, mean_over) == ("mean", "weights") and not config.ignores_a_label
        weights = SampleWeights(given, aligned, by_sum and aligned != positions and not unreduced)
        if weights.by_sum:
            reduction = "sum"
    if unreduced:
        reduction = "none"
    attributes = {**config.attributes, "reduction": reduction}
    return replace(config, attributes=attributes, loss_axis=loss_axis), weights


def _broadcasts(given: Shape, positions: Shape) -> bool:
    """Whether a shape broadcasts to the positions' without growing them; names may be any size."""
    pairs = zip(reversed(given), reversed(positions), strict=False)
    return len(given) <= len(positions) and all(
        size == 1 or size == at or not isinstance(size, int) or not isinstance(at, int)
        for size, at in pairs
    )
