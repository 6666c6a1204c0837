# SPDX-License-Identifier: MIT
"""Rules of our own in onnx-ad's reverse pass: adjoints for one direction.

onnx-ad carries a trailing axis of seed directions through the reverse pass. A training step has
one direction: here the axis is left out, and equal names of dynamic dimensions count as equal
sizes. Operators without a rule here keep onnx-ad's; what those give and take has the axis.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

Dims = Sequence[int | str | None]
Rule = Callable[["Adjoint", Any, str], "list[str | None]"]
Refusal = Callable[["Adjoint", Any], None]

_INSTALLED = threading.Lock()
RULES: dict[str, Rule] = {}
REFUSALS: dict[str, Refusal] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Registers the adjoint of operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(op_types, function))
        return function

    return register


def refusal(*op_types: str) -> Callable[[Refusal], Refusal]:
    """Registers what is asked before onnx-ad's own rule is; it raises where that one is wrong."""

    def register(function: Refusal) -> Refusal:
        REFUSALS.update(dict.fromkeys(op_types, function))
        return function

    return register


@contextmanager
def installed(table: dict[str, Any], derivatives: Mapping[str, Any], tape: Tape) -> Iterator[None]:
    """Has the rules of this module in onnx-ad's table, for one reverse pass."""
    rules = {**dict.fromkeys(derivatives, _elementwise), **RULES}
    with _INSTALLED:
        before = dict(table)
        tape.derivatives = derivatives
        table.update({name: tape.asked(check, before[name]) for name, check in REFUSALS.items()})
        table.update({name: tape.adapted(rule, table[name]) for name, rule in rules.items()})
        try:
            yield
        finally:
            table.clear()
            table.update(before)


class Tape:
    """What one reverse pass knows of its values.

    Args:
        model: The model that is differentiated, with inferred shapes.
        seed: The value with the trailing axis that the pass starts from, and the one without.
    """

    def __init__(self, model: onnx.ModelProto, seed: tuple[str, str]) -> None:
        self._dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        graph = model.graph
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                self._dims.setdefault(value.name, tuple(map(_size, dims)))
        self.plain = dict([seed])
        self.derivatives: Mapping[str, Any] = {}

    def dims(self, name: str) -> Dims | None:
        """The sizes of a value: numbers, names, None where unknown."""
        return self._dims.get(name)

    def asked(self, check: Refusal, rule: Callable[..., Any]) -> Callable[..., Any]:
        """A rule of onnx-ad that is refused where it is wrong."""

        def adjoint(ctx: Any, node: Any, grads: Sequence[str | None]) -> Any:
            check(Adjoint(self, ctx, node, grads), node)
            return rule(ctx, node, grads)

        return adjoint

    def adapted(self, rule: Rule, fallback: Callable[..., Any]) -> Callable[..., Any]:
        """A rule as onnx-ad calls it. `fallback` is for what the rule does not do."""

        def adjoint(ctx: Any, node: Any, grads: Sequence[str | None]) -> Any:
            known = all(self.dims(name) is not None for name in (*node.input, *node.output) if name)
            whole = grads[0] is not None and (node.op_type == "Split" or not any(grads[1:]))
            if not known or not whole or node.domain not in ("", "ai.onnx"):
                return fallback(ctx, node, grads)
            op = Adjoint(self, ctx, node, grads)
            try:
                results = rule(op, node, op.gradient(0))
            except NotImplementedError:
                return fallback(ctx, node, grads)
            return [None if result is None else op.seeded(result) for result in results]

        return adjoint


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


class Adjoint:
    """Writes the adjoint of one node."""

    def __init__(self, tape: Tape, ctx: Any, node: Any, grads: Sequence[str | None]) -> None:
        self._tape, self._ctx, self._node, self._grads = tape, ctx, node, grads
        self.dims, self.wants, self.opset = tape.dims, ctx.asked_for, ctx.opset
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        return self._ctx.b.op(op_type, inputs, stem=f"{self._node.output[0]}.grad", **attributes)

    def scalar(self, value: float) -> str:
        """A constant of the dtype of the node's result."""
        return self.tensor(value, ())

    def tensor(self, value: float | np.ndarray, shape: Sequence[int]) -> str:
        """A constant tensor, of one value or many, of the dtype of the node's result."""
        dtype, values = self._ctx.dtype(self._node.output[0], *self._node.input), np.empty(shape)
        values[...] = value
        if dtype == onnx.TensorProto.BFLOAT16:  # onnx-ad makes no constants of it
            wide = self._ctx.b.constant(values, onnx.TensorProto.FLOAT, shape)
            return self("Cast", wide, to=dtype)
        return self._ctx.b.constant(values, dtype, shape)

    def ints(self, values: Sequence[int]) -> str:
        """A constant int64 vector."""
        return self._ctx.b.ints(values)

    def sizes(self, name: str, start: int = 0) -> list[int]:
        """The sizes of a value from an axis on, which must be known."""
        sizes = list(self.dims(name) or [None])[start:]
        if not all(isinstance(size, int) for size in sizes):
            raise NotImplementedError
        return sizes  # type: ignore[return-value]

    def shape_of(self, name: str) -> str:
        """The shape of a value: a constant where it is known."""
        dims = self.dims(name)
        if dims is not None and all(isinstance(size, int) for size in dims):
            return self.ints(dims)  # type: ignore[arg-type]
        return self._ctx.shape_of(name)

    def elem_type(self, name: str) -> int:
        """The ONNX element type of a value."""
        return self._ctx.shapes.dtype(name)

    def is_float(self, name: str) -> bool:
        """Whether a value can have an adjoint."""
        return self._ctx.is_float(name)

    def widened(self, value: str) -> str:
        """A value of the dtype of the node's result: a 16-bit one in float32."""
        return self("Cast", value, to=onnx.TensorProto.FLOAT) if self._is_half() else value

    def narrowed(self, value: str) -> str:
        """What `widened` undoes."""
        to = self.elem_type(self._node.output[0])
        return self("Cast", value, to=to) if self._is_half() else value

    def wide_scalar(self, value: float) -> str:
        """A constant of the dtype that `widened` gives."""
        if self._is_half():
            return self._ctx.constant(value, onnx.TensorProto.FLOAT)
        return self.scalar(value)

    def _is_half(self) -> bool:
        halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        return self.elem_type(self._node.output[0]) in halves

    def constant_ints(self, index: int) -> list[int] | None:
        """An operand's integers where they are constant."""
        names = self._node.input
        return self._ctx.integers(names[index]) if len(names) > index and names[index] else None

    def derivative(self) -> str:
        """onnx-ad's derivative of an elementwise operator."""
        node, ctx = self._node, self._ctx
        rule = self._tape.derivatives[node.op_type]
        dtype = ctx.dtype(node.input[0], node.output[0])
        return rule(ctx, node, node.input[0], node.output[0], dtype)

    def axis_sum(self, value: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """ReduceSum, which had its axes as an attribute before opset 13."""
        if self.opset < 13:
            return self("ReduceSum", value, axes=list(axes), keepdims=int(keepdims))
        return self("ReduceSum", value, self.ints(axes), keepdims=int(keepdims))

    def axis_mean(self, value: str, axes: Sequence[int]) -> str:
        """ReduceMean, which had its axes as an attribute before opset 18."""
        if self.opset < 18:
            return self("ReduceMean", value, axes=list(axes))
        return self("ReduceMean", value, self.ints(axes))

    def reduced(self, value: str, source: str, target: str) -> str:
        """The sum over what `target` was broadcast along to the shape of `source`."""
        wide, narrow = self.dims(source), self.dims(target)
        assert wide is not None and narrow is not None
        lead = len(wide) - len(narrow)
        if lead:
            value = self.axis_sum(value, range(lead), keepdims=False)
        sizes = list(zip(narrow, wide[lead:], strict=True))
        if any(n != w and not isinstance(n, int) for n, w in sizes):
            return self._reduced_at_run_time(value, target)
        within = [axis for axis, (n, w) in enumerate(sizes) if n == 1 != w]
        return self.axis_sum(value, within, keepdims=True) if within else value

    def _reduced_at_run_time(self, value: str, target: str) -> str:
        """The sum over the axes of size 1 of `target`, which has the rank of the value."""
        if self.opset < 13:
            raise NotImplementedError
        ones = self("NonZero", self("Equal", self._ctx.shape_of(target), self.ints([1])))
        axes = self("Reshape", ones, self.ints([-1]))
        return self("ReduceSum", value, axes, noop_with_empty_axes=1)

    def gradient(self, index: int) -> str:
        """The gradient of an output, without the trailing axis."""
        seeded = self._grads[index]
        if seeded is None:
            raise NotImplementedError
        plain = self._tape.plain
        if seeded not in plain:
            parts = [n for n in self._ctx.b.nodes[-1:] if n.op_type == "Sum" and seeded in n.output]
            names = [name for node in parts for name in node.input]
            if names and all(name in plain for name in names):
                plain[seeded] = self("Sum", *(plain[name] for name in names))
            else:
                full = self._ctx.full(seeded, self._node.output[index])
                plain[seeded] = self._ctx.squeeze(full, [-1])
        return plain[seeded]

    def seeded(self, plain: str) -> str:
        """A gradient with the trailing axis."""
        seeded = self._ctx.unsqueeze(plain, [-1])
        self._tape.plain[seeded] = plain
        return seeded


def _elementwise(op: Adjoint, node: Any, g: str) -> list[str | None]:
    return [op("Mul", g, op.derivative())]
