# SPDX-License-Identifier: MIT
"""Standard nodes around a loss: its inputs as the operator takes them, and the way back."""

from __future__ import annotations

import numpy as np

from .dtypes import stash_dtype
from .layout import Layout, Ports, Shape
from .writer import Writer, value_info


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
