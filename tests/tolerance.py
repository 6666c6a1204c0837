# SPDX-License-Identifier: MIT
"""The three-way tolerance rule, in one place.

T is the float64 truth, B the function body run by ONNX Runtime in the case's dtype, K the kernel.
The body must be right within the table below; the kernel within twice the body's largest error and
4 units of the dtype. Values that are not finite must be of the truth's kind exactly.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

# Units of the output dtype, times max(1, |T|). A 16-bit output is rounded once, from float32.
BODY_BOUND = {"float16": 1.0, "bfloat16": 1.0, "float32": 8.0, "float64": 8.0}
# ONNX Runtime's ReduceSum adds a row one by one: 65 537 float32 terms lose 40 units, float64 ones
# 10, measured.
BODY_BOUND_MANY_CLASSES = {"float16": 1.0, "bfloat16": 1.0, "float32": 64.0, "float64": 16.0}
MANY_CLASSES = 65536
KERNEL_BOUND = 4.0
# The kernels keep this whatever the body does: a 16-bit output is the truth's nearest number, or as
# near as makes no difference, and no row is added one by one. All options at once cost 4.01 units
# of float32 without fused multiply-add, measured; with it, 4 are kept.
KERNEL_OWN_BOUND = {"float16": 0.51, "bfloat16": 0.51, "float32": 4.1, "float64": 8.0}


def assert_body(body: np.ndarray, truth: np.ndarray, classes: int, what: str) -> None:
    """Asserts `|B-T| <= c eps max(1, |T|)`."""
    _assert_form(body, truth, what)
    table = BODY_BOUND_MANY_CLASSES if classes > MANY_CLASSES else BODY_BOUND
    allowed = table[body.dtype.name] * _unit(body.dtype, truth)
    _assert_within(body, truth, allowed, what)


def assert_kernel(kernel: np.ndarray, body: np.ndarray, truth: np.ndarray, what: str) -> None:
    """Asserts `|K-T| <= 2 max|B-T| + 4 eps max(1, |T|)`, and the kernel's own bound."""
    assert kernel.dtype == body.dtype, f"{what}: dtype {kernel.dtype}, the body has {body.dtype}"
    assert_kernel_alone(kernel, truth, what)
    worst = _error(body, truth).max(initial=0.0)
    allowed = 2 * worst + KERNEL_BOUND * _unit(kernel.dtype, truth)
    _assert_within(kernel, truth, allowed, what)


def assert_kernel_alone(kernel: np.ndarray, truth: np.ndarray, what: str) -> None:
    """Asserts the kernel's own bound, which no error of the body widens."""
    _assert_form(kernel, truth, what)
    allowed = KERNEL_OWN_BOUND[kernel.dtype.name] * _unit(kernel.dtype, truth)
    _assert_within(kernel, truth, allowed, what)


def eps(dtype: np.dtype) -> float:
    """The distance from 1 to the next larger number of `dtype`."""
    return float(ml_dtypes.finfo(dtype).eps)


def _unit(dtype: np.dtype, truth: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(truth), truth, 0.0)
    return eps(dtype) * np.maximum(1.0, np.abs(finite))


def _error(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`|result - truth|`, 0 where the truth is not finite."""
    finite = np.isfinite(truth)
    error = np.zeros(truth.shape)
    error[finite] = np.abs(result.astype(np.float64)[finite] - truth[finite])
    return error


def _assert_form(result: np.ndarray, truth: np.ndarray, what: str) -> None:
    assert result.shape == truth.shape, f"{what}: shape {result.shape}; expected {truth.shape}"
    for kind in (np.isnan, np.isposinf, np.isneginf):
        wrong = kind(result.astype(np.float64)) != kind(truth)
        assert not wrong.any(), f"{what}: {kind.__name__} differs\n{result}\nexpected\n{truth}"


def _assert_within(result: np.ndarray, truth: np.ndarray, allowed: np.ndarray, what: str) -> None:
    error = _error(result, truth)
    wrong = error > allowed
    if wrong.any():
        worst = np.unravel_index(np.argmax(error - allowed), truth.shape)
        place = f"[{', '.join(map(str, worst))}]"
        raise AssertionError(
            f"{what}{place} is {result[worst]}; expected {truth[worst]} within "
            f"{allowed[worst]:.3g}, off by {error[worst]:.3g}; {wrong.sum()} of {truth.size} wrong."
        )
