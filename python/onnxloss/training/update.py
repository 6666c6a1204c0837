# SPDX-License-Identifier: MIT
"""What comes between the gradient and the optimizer: accumulation, loss scale, clipping, skips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx
from onnx import TensorProto, helper

from ..dtypes import name_of
from ..errors import expected
from ..writer import Writer, value_info, value_names
from .optimizers import Optimizer, Parameter, is_count, is_number

LOSS_SCALE, GROWTH_TRACKER = "loss_scale", "growth_tracker"
MICRO_STEP, GRADIENT_SUM = "micro_step", "gradient_sum"
_CLIP_EPSILON = 1e-6
"""What torch.nn.utils.clip_grad_norm_ adds to the norm."""


@dataclass(frozen=True)
class Extras:
    """What a step does with the gradient before the optimizer has it.

    Attributes:
        max_norm: The global norm that gradients are clipped to, or None.
        accumulation_steps: How many steps make one update.
        loss_scale: The first loss scale, or None for a step without.
        growth_interval: How many updates without an overflow double the loss scale.
    """

    max_norm: float | None = None
    accumulation_steps: int = 1
    loss_scale: float | None = None
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        above_0 = "a finite number above 0, or None"
        for name in ("max_norm", "loss_scale"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise expected("training_step", name, value, above_0)
            # Python's own, not numpy's: the settings are written as JSON.
            object.__setattr__(self, name, None if value is None else float(value))
        for name in ("accumulation_steps", "growth_interval"):
            value = getattr(self, name)
            if not is_count(value):
                raise expected("training_step", name, value, "an integer of at least 1")
            object.__setattr__(self, name, int(value))

    @property
    def accumulates(self) -> bool:
        """Whether gradients of several steps make one update."""
        return self.accumulation_steps > 1

    @property
    def conditional(self) -> bool:
        """Whether there are steps without an update."""
        return self.accumulates or self.loss_scale is not None

    def states(self, parameters: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
        """The states that these add, as tensors without data."""
        states = []
        if self.accumulates:
            for p in parameters:
                name = f"{p.name}.{GRADIENT_SUM}"
                states.append(TensorProto(name=name, data_type=p.data_type, dims=p.dims))
            states.append(TensorProto(name=MICRO_STEP, data_type=TensorProto.INT64))
        if self.loss_scale is not None:
            states.append(TensorProto(name=LOSS_SCALE, data_type=TensorProto.FLOAT))
            states.append(TensorProto(name=GROWTH_TRACKER, data_type=TensorProto.INT64))
        return states


def add_update(
    graph: onnx.GraphProto,
    extras: Extras,
    optimizer: Optimizer,
    parameters: Sequence[Parameter],
    optimized: Sequence[onnx.TensorProto],
    rate_dtype: str,
    new: Callable[[str], str],
) -> None:
    """Adds the nodes from the gradients to the states after the step.

    Args:
        graph: The graph, with all states as inputs.
        extras: What comes before the optimizer.
        optimizer: The optimizer.
        parameters: The parameters and their gradients.
        optimized: The states that the optimizer changes.
        rate_dtype: Dtype of `learning_rate`.
        new: Names the value that a state has after the step.
    """
    states = [*(s.name for s in optimized), *(f"{p.name}.{GRADIENT_SUM}" for p in parameters)]
    states += [MICRO_STEP, LOSS_SCALE, GROWTH_TRACKER]
    write = Writer(graph, reserved=map(new, states))
    ready = None
    if extras.accumulates:
        parameters, ready = _accumulated(write, extras, parameters, new)
    factor, finite = None, None
    if extras.max_norm is not None or extras.loss_scale is not None:
        factor, finite = _factor(write, extras, parameters, ready, rate_dtype, new)

    if not extras.conditional:
        optimizer.update(write, _scaled(write, parameters, factor), rate_dtype, new)
        return
    apply = ready or finite or ""
    if ready and finite:
        apply = write.node("And", [ready, finite], like="update.applies")
    _add_branches(write, apply, optimizer, parameters, factor, optimized, rate_dtype, new)


def _accumulated(
    write: Writer, extras: Extras, parameters: Sequence[Parameter], new: Callable[[str], str]
) -> tuple[list[Parameter], str]:
    """The parameters with the sums of their gradients, and whether the last of these has come."""
    count, zero = (write.number(n, "int64") for n in (extras.accumulation_steps, 0))
    micro_step = write.node("Add", [MICRO_STEP, write.number(1, "int64")], like="micro_step.next")
    ready = write.node("Equal", [micro_step, count], like="micro_step.is_last")
    write.node("Where", [ready, zero, micro_step], new(MICRO_STEP))
    summed = []
    for p in parameters:
        name = f"{p.name}.{GRADIENT_SUM}"
        total = write.node("Add", [name, p.gradient], like=f"{name}.total")
        write.node("Where", [ready, write.number(0.0, p.dtype), total], new(name))
        summed.append(replace(p, gradient=total))
    return summed, ready


def _factor(
    write: Writer,
    extras: Extras,
    parameters: Sequence[Parameter],
    ready: str | None,
    dtype: str,
    new: Callable[[str], str],
) -> tuple[str, str | None]:
    """What the gradients are multiplied by, and with a loss scale whether they are finite.

    The norm is that of torch.nn.utils.clip_grad_norm_, the scale torch.amp.GradScaler's.
    """
    number = partial(write.number, dtype=dtype)
    norms = []
    for p in parameters:
        norm = write.node("ReduceL2", [p.gradient], like=f"{p.name}.grad.norm", keepdims=0)
        norms.append(write.unsqueezed(write.cast(norm, p.dtype, dtype), 0))
    stacked = write.node("Concat", norms, like="grad.norms", axis=0)
    norm = write.node("ReduceL2", [stacked], like="grad.norm", keepdims=0)
    factor, finite = None, None
    if extras.loss_scale is not None:
        finite = write.node("Less", [norm, number(math.inf)], like="grad.is_finite")
        scale = write.cast(LOSS_SCALE, "float32", dtype)
        factor = write.node("Reciprocal", [scale], like="loss_scale.inverse")
        norm = write.node("Mul", [norm, factor], like="grad.unscaled_norm")
        _write_scale(write, extras, finite, ready, new)
    if extras.max_norm is not None:
        norm = write.node("Add", [norm, number(_CLIP_EPSILON)], like="grad.clip_norm")
        clip = write.node("Div", [number(extras.max_norm), norm], like="grad.clip_ratio")
        clip = write.node("Min", [clip, number(1.0)], like="grad.clip")
        factor = write.node("Mul", [factor, clip], like="grad.factor") if factor else clip
    assert factor is not None
    return factor, finite


def _write_scale(
    write: Writer, extras: Extras, finite: str, ready: str | None, new: Callable[[str], str]
) -> None:
    """Halves the scale after an overflow, doubles it after a long time without."""
    number, integer = (partial(write.number, dtype=d) for d in ("float32", "int64"))
    tracker = write.node("Add", [GROWTH_TRACKER, integer(1)], like="growth_tracker.next")
    grows = write.node("Equal", [tracker, integer(extras.growth_interval)], like="loss_scale.grows")
    doubled = write.node("Mul", [LOSS_SCALE, number(2.0)], like="loss_scale.doubled")
    doubled = write.node("Min", [doubled, number(2.0**127)], like="loss_scale.limited")
    halved = write.node("Mul", [LOSS_SCALE, number(0.5)], like="loss_scale.halved")
    for state, after, at_overflow, otherwise in (
        (LOSS_SCALE, doubled, halved, LOSS_SCALE),
        (GROWTH_TRACKER, integer(0), integer(0), tracker),
    ):
        chosen = write.node("Where", [grows, after, otherwise], like=f"{state}.grown")
        if ready is None:
            write.node("Where", [finite, chosen, at_overflow], new(state))
        else:
            chosen = write.node("Where", [finite, chosen, at_overflow], like=f"{state}.chosen")
            write.node("Where", [ready, chosen, state], new(state))


def _scaled(
    write: Writer, parameters: Sequence[Parameter], factor: str | None
) -> Sequence[Parameter]:
    if factor is None:
        return parameters
    dtype = max((p.dtype for p in parameters), key=("float32", "float64").index)
    scaled = []
    for p in parameters:
        own = write.cast(factor, dtype, p.dtype)
        gradient = write.node("Mul", [p.gradient, own], like=f"{p.name}.scaled_grad")
        scaled.append(replace(p, gradient=gradient))
    return scaled


def _add_branches(
    write: Writer,
    apply: str,
    optimizer: Optimizer,
    parameters: Sequence[Parameter],
    factor: str | None,
    optimized: Sequence[onnx.TensorProto],
    rate_dtype: str,
    new: Callable[[str], str],
) -> None:
    """An If that runs the optimizer, or leaves its states as they are."""

    def branch(kind: str, fill: Callable[[Writer, Callable[[str], str]], None]) -> onnx.GraphProto:
        def within(state: str) -> str:
            return f"{state}.{kind}"

        outputs = [value_info(within(s.name), name_of(s.data_type), s.dims) for s in optimized]
        graph = helper.make_graph([], kind, [], outputs)
        fill(Writer(graph, reserved=value_names(write.graph)), within)
        return graph

    def updated(inner: Writer, within: Callable[[str], str]) -> None:
        optimizer.update(inner, _scaled(inner, parameters, factor), rate_dtype, within)

    def kept(inner: Writer, within: Callable[[str], str]) -> None:
        for state in optimized:
            inner.node("Identity", [state.name], within(state.name))

    write.graph.node.append(
        helper.make_node(
            "If",
            [apply],
            [new(state.name) for state in optimized],
            "update",
            then_branch=branch("updated", updated),
            else_branch=branch("kept", kept),
        )
    )
