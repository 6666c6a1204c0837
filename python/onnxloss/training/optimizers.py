# SPDX-License-Identifier: MIT
"""PyTorch's optimizers, SGD and AdamW, as standard ONNX nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from onnx import TensorProto

from ..errors import LossError, expected
from .nodes import GraphWriter

STEP = "step"
LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a graph and the value that holds its gradient."""

    name: str
    elem_type: int
    gradient: str


@dataclass(frozen=True)
class Sgd:
    """torch.optim.SGD: stochastic gradient descent.

        g = gradient + weight_decay * p
        momentum_buffer = momentum * momentum_buffer + g     (0 at first; only with a momentum)
        p = p - learning_rate * momentum_buffer              (g without a momentum)

    Attributes:
        momentum: At least 0; with 0 there is no buffer.
        weight_decay: At least 0.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of a parameter's moments."""
        return ("momentum_buffer",) if self.momentum else ()

    counts_steps = False

    def update(
        self, graph: GraphWriter, parameters: Iterable[Parameter], new: Callable[[str], str]
    ) -> None:
        """Adds the nodes that compute `new(state)` for each state."""
        for p in parameters:
            number = _numbers(graph, p)
            g = p.gradient
            if self.weight_decay:
                decay = graph.op("Mul", [p.name, number(self.weight_decay)], f"{p.name}.decay")
                g = graph.op("Add", [g, decay], f"{p.name}.decayed_grad")
            if self.momentum:
                buffer = f"{p.name}.momentum_buffer"
                kept = graph.op("Mul", [buffer, number(self.momentum)], f"{buffer}.kept")
                g = graph.op("Add", [kept, g], new(buffer))
            rate = graph.cast(LEARNING_RATE, p.elem_type)
            change = graph.op("Mul", [g, rate], f"{p.name}.change")
            graph.op("Sub", [p.name, change], new(p.name))


@dataclass(frozen=True)
class AdamW:
    """torch.optim.AdamW: Adam with bias correction and decoupled weight decay.

        step = step + 1
        p = p * (1 - learning_rate * weight_decay)
        exp_avg = exp_avg + (1 - beta1) * (gradient - exp_avg)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * gradient^2
        denominator = sqrt(exp_avg_sq) / sqrt(1 - beta2^step) + eps
        p = p - learning_rate / (1 - beta1^step) * exp_avg / denominator

    Attributes:
        betas: beta1 and beta2, each in [0, 1).
        eps: At least 0.
        weight_decay: At least 0.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    moments = ("exp_avg", "exp_avg_sq")
    counts_steps = True

    def update(
        self, graph: GraphWriter, parameters: Iterable[Parameter], new: Callable[[str], str]
    ) -> None:
        """Adds the nodes that compute `new(state)` for each state."""
        decay, *scalars = self._scalars(graph, new)
        for p in parameters:
            number, (beta1, beta2) = _numbers(graph, p), self.betas
            step_size, root_correction = (graph.cast(s, p.elem_type) for s in scalars)
            m, v = f"{p.name}.exp_avg", f"{p.name}.exp_avg_sq"

            difference = graph.op("Sub", [p.gradient, m], f"{m}.difference")
            change = graph.op("Mul", [difference, number(1 - beta1)], f"{m}.change")
            m_new = graph.op("Add", [m, change], new(m))

            square = graph.op("Mul", [p.gradient, p.gradient], f"{v}.square")
            added = graph.op("Mul", [square, number(1 - beta2)], f"{v}.added")
            kept = graph.op("Mul", [v, number(beta2)], f"{v}.kept")
            v_new = graph.op("Add", [kept, added], new(v))

            root = graph.op("Sqrt", [v_new], f"{v}.root")
            corrected = graph.op("Div", [root, root_correction], f"{v}.corrected")
            denominator = graph.op("Add", [corrected, number(self.eps)], f"{v}.denominator")
            direction = graph.op("Div", [m_new, denominator], f"{p.name}.direction")
            change = graph.op("Mul", [direction, step_size], f"{p.name}.change")
            decayed = p.name
            if decay is not None:
                kept = graph.cast(decay, p.elem_type)
                decayed = graph.op("Mul", [p.name, kept], f"{p.name}.decayed")
            graph.op("Sub", [decayed, change], new(p.name))

    def _scalars(
        self, graph: GraphWriter, new: Callable[[str], str]
    ) -> tuple[str | None, str, str]:
        """1 - learning_rate * weight_decay, learning_rate / (1 - beta1^t) and sqrt(1 - beta2^t).

        In float64, as PyTorch computes them: 1 - 0.999^t in float32 has an error of 6e-5 at t = 1.
        """
        double = TensorProto.DOUBLE
        one = graph.number(1.0, double)
        steps = graph.op("Add", [STEP, graph.number(1, TensorProto.INT64)], new(STEP))
        t = graph.cast(steps, double)
        rate = graph.cast(LEARNING_RATE, double)

        decay = None
        if self.weight_decay:
            weight_decay = graph.number(self.weight_decay, double)
            decay = graph.op("Mul", [rate, weight_decay], "adamw.weight_decay")
            decay = graph.op("Sub", [one, decay], "adamw.kept")
        corrections = []
        for index, beta in enumerate(self.betas, 1):
            power = graph.op("Pow", [graph.number(beta, double), t], f"adamw.beta{index}_power")
            corrections.append(graph.op("Sub", [one, power], f"adamw.bias_correction{index}"))
        step_size = graph.op("Div", [rate, corrections[0]], "adamw.step_size")
        root_correction = graph.op("Sqrt", [corrections[1]], "adamw.root_bias_correction2")
        return decay, step_size, root_correction


Optimizer = Sgd | AdamW
OPTIMIZERS: dict[str, type[Sgd] | type[AdamW]] = {"sgd": Sgd, "adamw": AdamW}
MOMENTS = ("momentum_buffer", *AdamW.moments)


def make_optimizer(name: str, hyperparameters: Mapping[str, Any]) -> Optimizer:
    """The optimizer with its hyperparameters, validated.

    Raises:
        LossError: An unknown optimizer, or a hyperparameter that it does not have or allow.
    """
    if name not in OPTIMIZERS:
        raise expected("training_step", "optimizer", name, " or ".join(OPTIMIZERS))
    kind = OPTIMIZERS[name]
    known = [entry.name for entry in fields(kind)]
    for key in hyperparameters:
        if key not in known:
            raise LossError(
                f"training_step: {key} is not a hyperparameter of {name}; "
                f"expected {', '.join(known)}."
            )
    values: dict[str, Any] = {}
    for key, value in hyperparameters.items():
        if key == "betas":
            pair = tuple(value) if isinstance(value, list | tuple) else ()
            if len(pair) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in pair):
                raise expected("training_step", key, value, "two numbers in [0, 1)")
            values[key] = tuple(float(beta) for beta in pair)
        elif not (_is_number(value) and value >= 0):
            raise expected("training_step", key, value, "a finite number of at least 0")
        else:
            values[key] = float(value)
    return kind(**values)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _numbers(graph: GraphWriter, parameter: Parameter) -> Callable[[float], str]:
    return lambda value: graph.number(value, parameter.elem_type)
