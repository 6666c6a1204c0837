# SPDX-License-Identifier: MIT
"""Adjoints of the common operators, in the forms that ONNX Runtime runs fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from .adjoints import Adjoint, rule


@rule("Relu")
def _relu(op: Adjoint, node: Any, g: str) -> list[str | None]:
    positive = op("Greater", node.input[0], op.scalar(0.0))
    return [op("Where", positive, g, op.scalar(0.0))]


@rule("Identity")
def _identity(op: Adjoint, node: Any, g: str) -> list[str | None]:
    return [g]


@rule("Neg")
def _neg(op: Adjoint, node: Any, g: str) -> list[str | None]:
    return [op("Neg", g)]


@rule("Add")
def _add(op: Adjoint, node: Any, g: str) -> list[str | None]:
    return [op.reduced(g, node.output[0], name) if op.wants(name) else None for name in node.input]


@rule("Sub")
def _sub(op: Adjoint, node: Any, g: str) -> list[str | None]:
    a, b = node.input
    left = op.reduced(g, node.output[0], a) if op.wants(a) else None
    right = op("Neg", op.reduced(g, node.output[0], b)) if op.wants(b) else None
    return [left, right]


@rule("Mul")
def _mul(op: Adjoint, node: Any, g: str) -> list[str | None]:
    a, b = node.input
    return [
        op.reduced(op("Mul", g, other), node.output[0], name) if op.wants(name) else None
        for name, other in ((a, b), (b, a))
    ]


@rule("Div")
def _div(op: Adjoint, node: Any, g: str) -> list[str | None]:
    (a, b), y = node.input, node.output[0]
    over = op("Div", g, b)
    left = op.reduced(over, y, a) if op.wants(a) else None
    right = op("Neg", op.reduced(op("Mul", over, y), y, b)) if op.wants(b) else None
    return [left, right]


@rule("Gemm")
def _gemm(op: Adjoint, node: Any, g: str) -> list[str | None]:
    a, b, *c = node.input
    trans_a, trans_b = (op.attributes.get(name, 0) for name in ("transA", "transB"))
    alpha, beta = (op.attributes.get(name, 1.0) for name in ("alpha", "beta"))

    def product(left: str, right: str, at: int, bt: int) -> str:
        return op("Gemm", left, right, transA=at, transB=bt, alpha=alpha)

    da = db = dc = None
    if op.wants(a):
        da = product(b, g, trans_b, 1) if trans_a else product(g, b, 0, 1 - trans_b)
    if op.wants(b):
        db = product(g, a, 1, trans_a) if trans_b else product(a, g, 1 - trans_a, 0)
    if c and c[0] and op.wants(c[0]):
        dc = op.reduced(g, node.output[0], c[0])
        dc = dc if beta == 1 else op("Mul", dc, op.scalar(beta))
    return [da, db, dc]


@rule("MatMul")
def _matmul(op: Adjoint, node: Any, g: str) -> list[str | None]:
    a, b = node.input
    left, right = op.dims(a), op.dims(b)
    assert left is not None and right is not None
    if len(left) < 2 or len(right) < 2:
        raise NotImplementedError
    if len(right) == 2:
        return _matmul_by_matrix(op, node, g, len(left) > 2)
    if tuple(left[:-2]) != tuple(right[:-2]):
        raise NotImplementedError
    da = op("MatMul", g, _swapped(op, b, len(right))) if op.wants(a) else None
    db = op("MatMul", _swapped(op, a, len(left)), g) if op.wants(b) else None
    return [da, db]


def _swapped(op: Adjoint, value: str, rank: int) -> str:
    return op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matmul_by_matrix(op: Adjoint, node: Any, g: str, folds: bool) -> list[str | None]:
    """The leading axes folded into one: one large product each."""
    x, w = node.input
    rows, columns = op.dims(w) or (None, None)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise NotImplementedError
    flat_g = op("Reshape", g, op.ints([-1, columns])) if folds else g
    dx = dw = None
    if op.wants(x):
        dx = op("Gemm", flat_g, w, transB=1)
        dx = op("Reshape", dx, op.shape_of(x)) if folds else dx
    if op.wants(w):
        flat_x = op("Reshape", x, op.ints([-1, rows])) if folds else x
        dw = op("Gemm", flat_x, flat_g, transA=1)
    return [dx, dw]


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(op: Adjoint, node: Any, g: str) -> list[str | None]:
    return [op("Reshape", g, op.shape_of(node.input[0]))]


@rule("Transpose")
def _transpose(op: Adjoint, node: Any, g: str) -> list[str | None]:
    rank = len(op.dims(node.input[0]) or ())
    perm = op.attributes.get("perm", list(reversed(range(rank))))
    return [op("Transpose", g, perm=sorted(range(rank), key=perm.__getitem__))]


@rule("Split")
def _split(op: Adjoint, node: Any, g: str) -> list[str | None]:
    parts = [op.gradient(index) for index in range(len(node.output))]
    joined = op("Concat", *parts, axis=op.attributes.get("axis", 0))
    return [joined, *[None] * (len(node.input) - 1)]


@rule("Softmax")
def _softmax(op: Adjoint, node: Any, g: str) -> list[str | None]:
    if op.opset < 13:
        raise NotImplementedError  # it was two-dimensional
    y, axis = node.output[0], op.attributes.get("axis", -1)
    product = op("Mul", g, y)
    total = op.axis_sum(product, [axis], keepdims=True)
    return [op("Sub", product, op("Mul", y, total))]


@rule("Gather")
def _gather(op: Adjoint, node: Any, g: str) -> list[str | None]:
    """An embedding's gradient: rows added up where they came from."""
    data, indices = node.input
    if op.attributes.get("axis", 0) != 0 or op.opset < 16:
        raise NotImplementedError
    zeros = op("Expand", op.scalar(0.0), op.shape_of(data))
    if op.elem_type(indices) != onnx.TensorProto.INT64:
        indices = op("Cast", indices, to=onnx.TensorProto.INT64)
    at = op("Unsqueeze", indices, op.ints([-1]))
    return [op("ScatterND", zeros, at, g, reduction="add"), None]


@rule("Cast")
def _cast(op: Adjoint, node: Any, g: str) -> list[str | None]:
    if not op.is_float(node.input[0]):
        raise NotImplementedError
    return [op("Cast", g, to=op.elem_type(node.input[0]))]


@rule("Slice")
def _slice(op: Adjoint, node: Any, g: str) -> list[str | None]:
    """Zeros around the gradient; their numbers need not be known before the run."""
    starts, axes, steps = (op.constant_ints(i) for i in (1, 3, 4))
    unknown = [i for i, name in enumerate(node.input) if i > 2 and name and not op.constant_ints(i)]
    if op.opset < 13 or starts is None or unknown or any(step != 1 for step in steps or []):
        raise NotImplementedError
    x = node.input[0]
    dims = list(op.dims(x) or ())
    before = [0] * len(dims)
    for axis, start in zip(axes or range(len(dims)), starts, strict=False):
        before[axis] = start if start >= 0 else max(op.sizes(x, axis)[0] + start, 0)
    missing = op("Sub", op("Shape", x), op("Shape", g))
    pads = op("Concat", op.ints(before), op("Sub", missing, op.ints(before)), axis=0)
    return [op("Pad", g, pads), *[None] * (len(node.input) - 1)]


@rule("LayerNormalization")
def _layer_norm(op: Adjoint, node: Any, g: str) -> list[str | None]:
    x, scale, *shift = node.input
    rank = len(op.dims(x) or ())
    axes = list(range(op.attributes.get("axis", -1) % rank, rank))
    normal, inverse = _standardized(op, x, axes)
    wide_g, wide_scale = op.widened(g), op.widened(scale)
    product = op("Mul", wide_g, normal)
    dx = dscale = dshift = None
    if op.wants(x):
        scaled = op("Mul", wide_g, wide_scale), op("Mul", product, wide_scale)
        dx = op.narrowed(op("Mul", _standardization(op, *scaled, normal, axes), inverse))
    if op.wants(scale):
        dscale = op.narrowed(op.reduced(product, node.output[0], scale))
    if shift and shift[0] and op.wants(shift[0]):
        dshift = op.reduced(g, node.output[0], shift[0])
    return [dx, dscale, dshift]


@rule("BatchNormalization")
def _batch_norm(op: Adjoint, node: Any, g: str) -> list[str | None]:
    x, scale, shift = node.input[:3]
    if not op.attributes.get("training_mode", 0):
        raise NotImplementedError
    rank = len(op.dims(x) or ())
    axes = [axis for axis in range(rank) if axis != 1]
    normal, inverse = _standardized(op, x, axes)
    wide_g = op.widened(g)
    product = op("Mul", wide_g, normal)
    dx = dscale = dshift = None
    if op.wants(x):
        column = op("Reshape", op.widened(scale), op.ints([-1, *[1] * (rank - 2)]))
        dx = _standardization(op, wide_g, product, normal, axes)
        dx = op.narrowed(op("Mul", dx, op("Mul", inverse, column)))
    if op.wants(scale):
        dscale = op.narrowed(op.axis_sum(product, axes, keepdims=False))
    if op.wants(shift):
        dshift = op.narrowed(op.axis_sum(wide_g, axes, keepdims=False))
    return [dx, dscale, dshift, None, None]


def _standardized(op: Adjoint, x: str, axes: Sequence[int]) -> tuple[str, str]:
    """(x - mean) / sqrt(variance + epsilon), and the divisor's reciprocal; 16 bits in float32."""
    x = op.widened(x)
    centred = op("Sub", x, op.axis_mean(x, axes))
    variance = op.axis_mean(op("Mul", centred, centred), axes)
    shifted = op("Add", variance, op.wide_scalar(op.attributes.get("epsilon", 1e-5)))
    inverse = op("Reciprocal", op("Sqrt", shifted))
    return op("Mul", centred, inverse), inverse


def _standardization(op: Adjoint, g: str, product: str, normal: str, axes: Sequence[int]) -> str:
    """The adjoint of a standardization, up to its divisor; `product` is g * normal."""
    centred = op("Sub", g, op.axis_mean(g, axes))
    return op("Sub", centred, op("Mul", normal, op.axis_mean(product, axes)))
