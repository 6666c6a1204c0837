# SPDX-License-Identifier: MIT
"""The truth of the suite: every loss and its gradient in float64, written from the formulas alone.

Nothing here is shared with the function bodies or the kernels: three independent writings of the
maths check each other. Inputs may have any dtype; they are widened to float64 first, so the result
is the loss of the numbers that the operator is given, after their rounding to its dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np


def softmax_cross_entropy_loss(
    logits: np.ndarray,
    labels: np.ndarray,
    dloss: np.ndarray | float = 1.0,
    class_weights: np.ndarray | None = None,
    sample_weights: np.ndarray | None = None,
    *,
    axis: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    mean_over: str = "weights",
    empty_mean: str = "nan",
    class_weighting: str = "class",
    label_smoothing: float = 0.0,
    from_logits: int = 1,
    normalize: str = "none",
    epsilon: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of integer labels and `dlogits`, the gradient of `sum(dloss * loss)`.

    Each position i that is not ignored has the target distribution
    `t_ic = (1-e) [c = y_i] + e/C`; see `_loss_and_gradient` for what becomes of it. The mean over
    the weights divides by the sum of s_i w[y_i] over the positions that are not ignored.
    """
    scores = _scores(logits, axis, from_logits, logit_softcap, normalize, epsilon)
    n, classes = scores.x.shape
    y = np.asarray(labels).reshape(n)
    counts = y != ignore_index
    target = np.where(counts, y, 0)
    if n and not (np.all(target >= 0) and np.all(target < classes)):
        raise ValueError("a label is out of range")

    e = float(label_smoothing)
    t = np.full((n, classes), e / classes)
    t[np.arange(n), target] += 1 - e
    w = _or_ones(class_weights, classes)
    s = _or_ones(sample_weights, n)
    a, u = _weighted(t, w, class_weighting)
    share = u if class_weighting == "position" else w[target]
    denominator = {
        "weights": np.sum((s * share)[counts]),
        "positions": n,
        "valid": np.sum(counts),
        "nonzero": np.sum(counts & (s != 0)),
    }[mean_over]
    weighting = _Weighting(a, s * u, counts, _mean_of(denominator, empty_mean), z_loss)
    return _loss_and_gradient(scores, weighting, dloss, reduction)


def soft_label_cross_entropy_loss(
    logits: np.ndarray,
    labels: np.ndarray,
    dloss: np.ndarray | float = 1.0,
    class_weights: np.ndarray | None = None,
    sample_weights: np.ndarray | None = None,
    *,
    axis: int = 1,
    reduction: str = "mean",
    mean_over: str = "positions",
    empty_mean: str = "nan",
    class_weighting: str = "class",
    label_smoothing: float = 0.0,
    from_logits: int = 1,
    normalize: str = "none",
    epsilon: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of label probabilities and `dlogits`, the gradient of `sum(dloss * loss)`.

    Position i has the target distribution `t_ic = (1-e) labels_ic + e/C`, which need not add up to
    1. The mean over the weights divides by the sum of s_i u_i.
    """
    scores = _scores(logits, axis, from_logits, logit_softcap, normalize, epsilon)
    n, classes = scores.x.shape
    t, _ = _rows(labels, axis)
    e = float(label_smoothing)
    if e:
        t = t * (1 - e) + e / classes
    s = _or_ones(sample_weights, n)
    a, u = _weighted(t, _or_ones(class_weights, classes), class_weighting)
    denominator = {"positions": n, "weights": np.sum(s * u), "nonzero": np.sum(s != 0)}[mean_over]
    divisor = _mean_of(denominator, empty_mean)
    weighting = _Weighting(a, s * u, np.ones(n, bool), divisor, z_loss)
    return _loss_and_gradient(scores, weighting, dloss, reduction)


def label_gradient(
    logits: np.ndarray,
    dloss: np.ndarray | float = 1.0,
    class_weights: np.ndarray | None = None,
    sample_weights: np.ndarray | None = None,
    *,
    axis: int = 1,
    reduction: str = "mean",
    mean_over: str = "positions",
    empty_mean: str = "nan",
    label_smoothing: float = 0.0,
    from_logits: int = 1,
    normalize: str = "none",
    epsilon: float = 0.0,
    logit_softcap: float = 0.0,
) -> np.ndarray:
    """The gradient of `sum(dloss * loss)` by the labels of `soft_label_cross_entropy_loss`.

    That is `k_i s_i (1-e) w_c (-lp_ic)`, without a rule for zeros: 0 * inf is nan.
    """
    scores = _scores(logits, axis, from_logits, logit_softcap, normalize, epsilon)
    n, classes = scores.x.shape
    s = _or_ones(sample_weights, n)
    # The class weights are inside the sum over classes, so D has none.
    denominator = {"positions": n, "weights": np.sum(s), "nonzero": np.sum(s != 0)}[mean_over]
    divisor = _mean_of(denominator, empty_mean) if reduction == "mean" else 1.0
    upstream = np.broadcast_to(np.asarray(dloss, np.float64), scores.restore.moved[:-1]).reshape(n)
    with np.errstate(all="ignore"):
        per_class = negative_log_softmax(scores.x) if scores.are_logits else -np.log(scores.x)
        factor = np.divide(upstream, divisor) * s * (1 - float(label_smoothing))
        gradient = factor[:, None] * (_or_ones(class_weights, classes) * per_class)
    return scores.restore.logits(gradient)


def lse(
    logits: np.ndarray,
    *,
    axis: int = 1,
    from_logits: int = 1,
    normalize: str = "none",
    epsilon: float = 0.0,
    logit_softcap: float = 0.0,
) -> np.ndarray:
    """`log sum_c exp(x_ic)` of every position, ignored or not; 0 where no softmax joins them."""
    scores = _scores(logits, axis, from_logits, logit_softcap, normalize, epsilon)
    return scores.restore.positions(_lse(scores))


def of_lse(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes on which `lse` depends."""
    names = signature(lse).parameters
    return {name: value for name, value in attributes.items() if name in names}


def negative_log_softmax(x: np.ndarray) -> np.ndarray:
    """`-log(softmax(x))` of each row of `[N, C]`, right to a few units in the last place.

    The largest logit m is taken out of the sum: `log(1 + s)` with s the sum of the *others* keeps
    the digits of a confident row (a margin of 20 gives 2.06e-9, not 0), and `m - x_c` is formed
    before anything is added, so that a common offset costs nothing. Rows with a nan, a +inf or
    nothing but -inf are nan.
    """
    gap, others, _ = _row_statistics(x)
    result = np.log1p(others)[:, None] + gap
    result[_is_undefined(x)] = np.nan
    return result


@dataclass(frozen=True)
class _Scores:
    """The rows x `[N, C]`, what they are, and how slopes by them become those by the logits."""

    x: np.ndarray
    are_logits: bool
    restore: _Restore
    by_logits: Callable[[np.ndarray], np.ndarray]

    @property
    def undefined(self) -> np.ndarray:
        """Which rows have no softmax; probabilities have none to be undefined."""
        return _is_undefined(self.x) & self.are_logits


@dataclass(frozen=True)
class _Weighting:
    """What a loss makes of its labels and weights.

    The coefficients a_ic; the factor s_i u_i of each position and whether it counts; what the mean
    divides by; and z.
    """

    a: np.ndarray
    factor: np.ndarray
    counts: np.ndarray
    divisor: float
    z: float


def _loss_and_gradient(
    scores: _Scores, weighting: _Weighting, dloss: np.ndarray | float, reduction: str
) -> tuple[np.ndarray, np.ndarray]:
    """`loss_i = s_i u_i (sum_c a_ic (-lp_ic) + z lse_i^2)`, reduced, and its gradient.

    A coefficient of 0 contributes nothing, even where lp is -inf; a weight of 0 takes an infinite
    loss or slope away, but not one that is not a number; a row that does not count is 0 in loss
    and gradient whatever it holds.
    """
    a, factor, counts = weighting.a, weighting.factor, weighting.counts
    restore, n = scores.restore, len(a)
    with np.errstate(all="ignore"):
        per_class = negative_log_softmax(scores.x) if scores.are_logits else -np.log(scores.x)
        loss = np.where(a == 0, 0.0, a * per_class).sum(axis=1)
        loss += weighting.z * _lse(scores) ** 2
        loss = _times(factor, np.where(scores.undefined, np.nan, loss))
        loss = np.where(counts, loss, 0.0)

        upstream = np.asarray(dloss, np.float64)
        if reduction == "none":
            k = np.broadcast_to(upstream, restore.moved[:-1]).reshape(n)
            result = restore.positions(loss)
        else:
            divisor = weighting.divisor if reduction == "mean" else 1.0
            k = np.full(n, np.divide(upstream.reshape(()), divisor))
            result = np.asarray(np.divide(loss.sum(), divisor), np.float64)

        slope = _softmax_slope(scores, weighting)
        if not scores.are_logits:
            slope = np.where(a == 0, 0.0, -a / scores.x)
        slope = _times(factor[:, None], scores.by_logits(slope))
        dlogits = np.where(counts[:, None], k[:, None] * slope, 0.0)
    return result, restore.logits(dlogits)


def _softmax_slope(scores: _Scores, weighting: _Weighting) -> np.ndarray:
    """`p_c (A + 2 z lse) - a_c`.

    As `p_c (A - a_c + 2 z lse) - a_c (1 - p_c)`: no digits lost where p is close to 1.
    """
    x, a = scores.x, weighting.a
    gap, others, largest = _row_statistics(x)
    weight = np.exp(-gap)
    total = 1 + others[:, None]
    rest = total - weight
    rest[np.arange(len(x)), largest] = others
    pull = a.sum(axis=1, keepdims=True) - a + 2 * weighting.z * _lse(scores)[:, None]
    slope = (weight * pull - a * rest) / total
    slope[scores.undefined] = np.nan
    return slope


def _lse(scores: _Scores) -> np.ndarray:
    """The log of each row's sum of exponentials; nan for rows that have no softmax."""
    if not scores.are_logits:
        return np.zeros(len(scores.x))
    _, others, largest = _row_statistics(scores.x)
    result = scores.x[np.arange(len(scores.x)), largest] + np.log1p(others)
    return np.where(scores.undefined, np.nan, result)


def _row_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row: max - x, the sum of exp(x - max) over all classes but the first largest, it."""
    largest = x.argmax(axis=1)
    rows = np.arange(len(x))
    with np.errstate(all="ignore"):
        gap = x[rows, largest][:, None] - x
        weight = np.exp(-gap)
        weight[rows, largest] = 0.0
        gap[rows, largest] = 0.0
        return gap, weight.sum(axis=1), largest


def _is_undefined(x: np.ndarray) -> np.ndarray:
    return np.isnan(x).any(axis=1) | np.isposinf(x).any(axis=1) | np.isneginf(x).all(axis=1)


def _times(factor: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`factor * values`, where a factor of 0 gives 0 unless the value is nan."""
    return np.where((factor == 0) & ~np.isnan(values), 0.0, factor * values)


def _weighted(t: np.ndarray, w: np.ndarray, class_weighting: str) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients a_ic and the factors u_i of the target distribution t."""
    # A class that no label names may have any weight: 0 * nan is nan.
    shares = np.multiply(t, w, out=np.zeros_like(t), where=t != 0)
    if class_weighting == "position":
        return t, shares.sum(axis=1)
    return shares, np.ones(len(t))


def _mean_of(denominator: float, empty_mean: str) -> float:
    """What the mean divides by: for no mean at all nan, for the sum 1, for zero inf."""
    return float(denominator) or {"nan": np.nan, "sum": 1.0, "zero": np.inf}[empty_mean]


def _or_ones(weights: np.ndarray | None, size: int) -> np.ndarray:
    if weights is None:
        return np.ones(size)
    return np.asarray(weights).astype(np.float64).reshape(size)


def _scores(
    logits: np.ndarray,
    axis: int,
    from_logits: int,
    logit_softcap: float,
    normalize: str,
    epsilon: float,
) -> _Scores:
    x, restore = _rows(logits, axis)
    if normalize != "none":
        return _normalized(x, restore, normalize, epsilon)
    if not logit_softcap:
        return _Scores(x, bool(from_logits), restore, lambda slope: slope)
    # cap * tanh has an error of its own size, which float64 would carry into every difference.
    ratio = x.astype(np.longdouble) / logit_softcap
    with np.errstate(over="ignore"):
        dx = 1 / np.cosh(ratio) ** 2
    capped = logit_softcap * np.tanh(ratio)
    return _Scores(capped, bool(from_logits), restore, lambda slope: slope * dx)


def _normalized(x: np.ndarray, restore: _Restore, normalize: str, epsilon: float) -> _Scores:
    """Probabilities divided by their sum, or whose log is a softmax's input; and clipped."""
    before = normalize == "before_clip"
    with np.errstate(all="ignore"):
        total = x.sum(axis=1, keepdims=True) if before else 1.0
        q = x / total
    r = np.where(q < epsilon, epsilon, np.where(q > 1 - epsilon, 1 - epsilon, q))
    clipped = (q < epsilon) | (q > 1 - epsilon)

    def by_logits(slope: np.ndarray) -> np.ndarray:
        if not before:
            return np.where(clipped | (slope == 0), 0.0, slope / r)
        by_q = np.where(clipped, 0.0, slope)
        return (by_q - (by_q * q).sum(axis=1, keepdims=True)) / total

    with np.errstate(all="ignore"):
        return _Scores(r if before else np.log(r), not before, restore, by_logits)


@dataclass(frozen=True)
class _Restore:
    """Gives rows back the shape that the logits had: `moved` is it with the class axis last."""

    moved: tuple[int, ...]
    axis: int

    def positions(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(self.moved[:-1]).astype(np.float64)

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(self.moved), -1, self.axis).astype(np.float64)


def _rows(array: np.ndarray, axis: int) -> tuple[np.ndarray, _Restore]:
    """`[d0, .., C, .., dk]` as float64 rows `[N, C]`."""
    # In C order, since numpy adds a strided row one by one and loses digits.
    moved = np.moveaxis(np.asarray(array), axis, -1).astype(np.float64, order="C")
    rows = moved.reshape(int(np.prod(moved.shape[:-1])), moved.shape[-1])
    return rows, _Restore(moved.shape, axis)
