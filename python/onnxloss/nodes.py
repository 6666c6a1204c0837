# SPDX-License-Identifier: MIT
"""Standard nodes around a loss: its inputs as the operator takes them, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import LossConfig
from .dtypes import FLOAT_DTYPES, stash_dtype
from .layout import Layout, Ports, Shape
from .writer import Writer, value_info


@dataclass(frozen=True)
class Scores:
    """What the operator takes for probabilities, and the values that lead its gradient back.

    `outside` says of each whether it was too low, and whether it was too high. `division` has the
    quotient, the divisor and the class axis, where there was a division.
    """

    value: str
    clipped: str
    outside: tuple[str, str]
    dtype: str
    division: tuple[str, str, str] | None = None


def scores_of(write: Writer, config: LossConfig, given: str, at: Layout) -> Scores:
    """The scores of probabilities: their log after "clipped", themselves after "normalised"."""
    kind, dtype = config.probabilities, FLOAT_DTYPES[at.compute]
    lowest = write.tensor(np.array(config.epsilon, dtype), "lowest_probability")
    highest = write.tensor(np.array(1 - config.epsilon, dtype), "highest_probability")
    value, division = given, None
    if kind == "normalised":
        axes = write.tensor(np.array([at.axis]), "class_axis")
        total = write.node("ReduceSum", [given, axes], keepdims=1)
        value = write.node("Div", [given, total])
        division = value, total, axes
    # Clip would take nan for a bound in some runtimes; a comparison with nan is false in all.
    too_low = write.node("Less", [value, lowest])
    too_high = write.node("Greater", [value, highest])
    at_most = write.node("Where", [too_high, highest, value])
    clipped = write.node("Where", [too_low, lowest, at_most])
    if kind == "clipped":
        return Scores(write.node("Log", [clipped]), clipped, (too_low, too_high), at.compute)
    return Scores(clipped, clipped, (too_low, too_high), at.compute, division)


def led_back(write: Writer, scores: Scores, gradient: str, result: str | None) -> str:
    """The gradient by the probabilities, from the one by the scores."""
    is_clipped = write.node("Or", list(scores.outside))
    zero = write.number(0.0, scores.dtype)
    if scores.division is None:
        # An ignored position has gradient 0, whatever its probabilities: 0 / nan must not be nan.
        is_zero = write.node("Equal", [gradient, zero])
        divided = write.node("Div", [gradient, scores.clipped])
        gradient = write.node("Where", [is_zero, zero, divided])
        return write.node("Where", [is_clipped, zero, gradient], result)
    gradient = write.node("Where", [is_clipped, zero, gradient])
    quotient, total, axes = scores.division
    product = write.node("Mul", [gradient, quotient])
    share = write.node("ReduceSum", [product, axes], keepdims=1)
    return write.node("Div", [write.node("Sub", [gradient, share]), total], result)


def smoothed(write: Writer, labels: str, factor: float, dtype: str) -> str:
    """Probabilities t as (1 - e) t + e / n, with n the size of their last axis."""
    kept = write.tensor(np.array(1 - factor, dtype), "kept_share")
    spread = write.tensor(np.array(factor, dtype), "spread_share")
    last = write.tensor(np.array(-1), "last_axis")
    size = write.node("Gather", [write.node("Shape", [labels]), last])
    count = write.cast(size, "int64", dtype)
    share = write.node("Div", [spread, count])
    return write.node("Add", [write.node("Mul", [labels, kept]), share])


def scaled(write: Writer, factor: float, dtype: str, value: str, result: str | None) -> str:
    """The value times a number."""
    return write.node("Mul", [value, write.number(factor, dtype)], result)


def dloss_of(write: Writer, at: Layout, ports: Ports) -> str:
    """Adds the graph input `dloss`; gives it as the operator takes it."""
    write.graph.input.append(value_info(ports.dloss, at.compute, at.loss))
    dloss = write.cast(ports.dloss, at.compute, stash_dtype(at.compute))
    return write.squeezed(dloss, at.axis) if at.keeps_axis else dloss


def by_their_sum(write: Writer, weights: str, dtype: str) -> str:
    """Weights divided by their sum; 0 where that is 0."""
    total = write.node("ReduceSum", [weights], keepdims=0)
    zero = write.tensor(np.zeros((), dtype), "zero")
    infinity = write.tensor(np.array(np.inf, dtype), "infinity")
    is_zero = write.node("Equal", [total, zero])
    return write.node("Div", [weights, write.node("Where", [is_zero, infinity, total])])


def expanded(write: Writer, weights: str, shape: Shape, at: Layout, logits: str) -> str:
    """Weights of a shape that broadcasts to the positions', one for each of them."""
    if shape == at.positions:
        return weights
    known = [size for size in at.positions if isinstance(size, int)]
    if 0 in known and len(known) == len(at.positions):
        # ONNX Runtime 1.31 infers that Expand makes [1] of [1] and [0], and reserves its place.
        return write.tensor(np.zeros(known, stash_dtype(at.compute)), "no_sample_weights")
    others = np.array([dim for dim in range(len(at.logits)) if dim != at.axis], np.int64)
    sizes = write.node("Shape", [logits])
    positions = write.node("Gather", [sizes, write.tensor(others, "position_dims")])
    return write.node("Expand", [weights, positions])


def nan_if_empty(write: Writer, logits: str, dtype: str, value: str, result: str | None) -> str:
    """The value times size / size of the logits: 1, or nan where there are none."""
    size = write.cast(write.node("Size", [logits]), "int64", dtype)
    return write.node("Mul", [value, write.node("Div", [size, size])], result)
