# SPDX-License-Identifier: MIT
"""Standard nodes in front of a loss: probabilities into its scores, labels smoothed densely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

EPSILON = 1e-7
"""Probabilities are clipped to [EPSILON, 1 - EPSILON]: Keras's epsilon."""


class Writer(Protocol):
    """What adds nodes and initializers to a graph."""

    def node(
        self, op_type: str, inputs: Sequence[str], result: str | None = None, **attributes: Any
    ) -> str:
        """Adds a node; the name of its only output."""

    def tensor(self, values: np.ndarray, wanted: str) -> str:
        """Adds an initializer; its name."""


@dataclass(frozen=True)
class Scores:
    """What the operator takes for probabilities, and the values that lead its gradient back.

    `division` has the quotient, the divisor and the class axis, where there was a division.
    """

    value: str
    clipped: str
    is_clipped: str
    zero: str
    division: tuple[str, str, str] | None = None


def scores_of(write: Writer, kind: str, given: str, axis: int, dtype: np.dtype) -> Scores:
    """The scores of probabilities: their log after "clipped", themselves after "normalised"."""
    zero = write.tensor(np.zeros((), dtype), "zero")
    lowest = write.tensor(np.array(EPSILON, dtype), "lowest_probability")
    highest = write.tensor(np.array(1 - EPSILON, dtype), "highest_probability")
    value, division = given, None
    if kind == "normalised":
        axes = write.tensor(np.array([axis]), "class_axis")
        total = write.node("ReduceSum", [given, axes], keepdims=1)
        value = write.node("Div", [given, total])
        division = value, total, axes
    # Clip would take nan for a bound in some runtimes; a comparison with nan is false in all.
    too_low = write.node("Less", [value, lowest])
    too_high = write.node("Greater", [value, highest])
    at_most = write.node("Where", [too_high, highest, value])
    clipped = write.node("Where", [too_low, lowest, at_most])
    is_clipped = write.node("Or", [too_low, too_high])
    if kind == "clipped":
        return Scores(write.node("Log", [clipped]), clipped, is_clipped, zero)
    return Scores(clipped, clipped, is_clipped, zero, division)


def led_back(write: Writer, scores: Scores, gradient: str, result: str) -> str:
    """The gradient by the probabilities, from the one by the scores."""
    if scores.division is None:
        # An ignored position has gradient 0, whatever its probabilities: 0 / nan must not be nan.
        is_zero = write.node("Equal", [gradient, scores.zero])
        divided = write.node("Div", [gradient, scores.clipped])
        gradient = write.node("Where", [is_zero, scores.zero, divided])
        return write.node("Where", [scores.is_clipped, scores.zero, gradient], result)
    gradient = write.node("Where", [scores.is_clipped, scores.zero, gradient])
    quotient, total, axes = scores.division
    product = write.node("Mul", [gradient, quotient])
    share = write.node("ReduceSum", [product, axes], keepdims=1)
    return write.node("Div", [write.node("Sub", [gradient, share]), total], result)


def smoothed(write: Writer, labels: str, factor: float, dtype: str, onnx_dtype: int) -> str:
    """Probabilities t as (1 - e) t + e / n, with n the size of their last axis."""
    kept = write.tensor(np.array(1 - factor, dtype), "kept_share")
    spread = write.tensor(np.array(factor, dtype), "spread_share")
    last = write.tensor(np.array(-1), "last_axis")
    size = write.node("Gather", [write.node("Shape", [labels]), last])
    count = write.node("Cast", [size], to=onnx_dtype)
    share = write.node("Div", [spread, count])
    return write.node("Add", [write.node("Mul", [labels, kept]), share])
