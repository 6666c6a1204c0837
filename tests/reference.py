# SPDX-License-Identifier: MIT
"""The truth of the suite: every loss and its gradient in float64, written from the formulas alone.

Nothing here is shared with the function bodies or the kernels: three independent writings of the
maths check each other. Inputs may have any dtype; they are widened to float64 first, so the result
is the loss of the numbers that the operator is given, after their rounding to its dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def softmax_cross_entropy_loss(
    logits: np.ndarray,
    labels: np.ndarray,
    dloss: np.ndarray | float = 1.0,
    class_weights: np.ndarray | None = None,
    *,
    axis: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of integer labels and `dlogits`, the gradient of `sum(dloss * loss)`.

    Each position i that is not ignored spreads the coefficient
    `a_ic = (1-e) w[y_i] [c = y_i] + (e/C) w_c` over the classes; see `_from_coefficients`.
    The mean divides by D, the sum of w[y_i] over the positions that are not ignored; where D is 0
    there is no mean: nan, also where smoothing gives the sum a value.
    """
    x, restore = _rows(logits, axis)
    n, classes = x.shape
    y = np.asarray(labels).reshape(n)
    counts = y != ignore_index
    target = np.where(counts, y, 0)
    if n and not (np.all(target >= 0) and np.all(target < classes)):
        raise ValueError("a label is out of range")

    w = _weights(class_weights, classes)
    # With e = 0 the weights of the other classes must not be touched: 0 * nan is nan.
    e = float(label_smoothing)
    a = np.broadcast_to(e / classes * w, (n, classes)).copy() if e else np.zeros((n, classes))
    a[np.arange(n), target] += (1 - e) * w[target]
    denominator = np.sum(w[target][counts]) or np.nan
    return _from_coefficients(x, a, counts, denominator, dloss, reduction, restore)


def soft_label_cross_entropy_loss(
    logits: np.ndarray,
    labels: np.ndarray,
    dloss: np.ndarray | float = 1.0,
    class_weights: np.ndarray | None = None,
    *,
    axis: int = 1,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of label probabilities t and `dlogits`, the gradient of `sum(dloss * loss)`.

    Position i has the coefficients `a_ic = w_c t'_ic` with `t' = t(1-e) + e/C`. The mean divides by
    the number of positions, whatever the weights are; t need not sum to 1.
    """
    x, restore = _rows(logits, axis)
    n, classes = x.shape
    t, _ = _rows(labels, axis)
    e = float(label_smoothing)
    if e:
        t = t * (1 - e) + e / classes
    a = t * _weights(class_weights, classes)
    return _from_coefficients(x, a, np.ones(n, bool), float(n), dloss, reduction, restore)


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


def _from_coefficients(
    x: np.ndarray,
    a: np.ndarray,
    counts: np.ndarray,
    denominator: float,
    dloss: np.ndarray | float,
    reduction: str,
    restore: _Restore,
) -> tuple[np.ndarray, np.ndarray]:
    """`loss_i = sum_c a_ic (-lp_ic)` and `k_i (p_ic A_i - a_ic)`, reduced.

    A coefficient of 0 contributes nothing, even where lp is -inf; a row that does not count is 0 in
    loss and gradient whatever it holds.
    """
    n, _ = x.shape
    with np.errstate(all="ignore"):
        per_class = negative_log_softmax(x)
        undefined = _is_undefined(x)
        terms = np.where(a == 0, 0.0, a * per_class)
        loss = np.where(undefined, np.nan, terms.sum(axis=1))
        loss = np.where(counts, loss, 0.0)

        upstream = np.asarray(dloss, np.float64)
        if reduction == "none":
            k = np.broadcast_to(upstream, restore.moved[:-1]).reshape(n)
            result = restore.positions(loss)
        else:
            scale = denominator if reduction == "mean" else 1.0
            k = np.full(n, np.divide(upstream.reshape(()), scale))
            result = np.asarray(np.divide(loss.sum(), scale))

        slope = np.where(undefined[:, None], np.nan, _slope(x, a))
        dlogits = np.where(counts[:, None], k[:, None] * slope, 0.0)
    return result, restore.logits(dlogits)


def _slope(x: np.ndarray, a: np.ndarray) -> np.ndarray:
    """`p_c A - a_c`, as `p_c (A - a_c) - a_c (1 - p_c)`: no digits lost where p is close to 1."""
    gap, others, largest = _row_statistics(x)
    weight = np.exp(-gap)
    total = 1 + others[:, None]
    rest = total - weight
    rest[np.arange(len(x)), largest] = others
    total_coefficient = a.sum(axis=1, keepdims=True)
    return (weight * (total_coefficient - a) - a * rest) / total


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


def _weights(class_weights: np.ndarray | None, classes: int) -> np.ndarray:
    if class_weights is None:
        return np.ones(classes)
    return np.asarray(class_weights).astype(np.float64).reshape(classes)


@dataclass(frozen=True)
class _Restore:
    """Gives rows back the shape that the logits had: `moved` is it with the class axis last."""

    moved: tuple[int, ...]
    axis: int

    def positions(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(self.moved[:-1])

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(self.moved), -1, self.axis)


def _rows(array: np.ndarray, axis: int) -> tuple[np.ndarray, _Restore]:
    """`[d0, .., C, .., dk]` as float64 rows `[N, C]`."""
    # In C order, since numpy adds a strided row one by one and loses digits.
    moved = np.moveaxis(np.asarray(array), axis, -1).astype(np.float64, order="C")
    rows = moved.reshape(int(np.prod(moved.shape[:-1])), moved.shape[-1])
    return rows, _Restore(moved.shape, axis)
