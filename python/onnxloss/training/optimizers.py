# SPDX-License-Identifier: MIT
"""PyTorch's optimizers, SGD and AdamW, as standard ONNX nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from ..errors import LossError, expected
from ..writer import Writer

STEP = "step"
LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a graph and the value that holds its gradient."""

    name: str
    dtype: str
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
        self,
        write: Writer,
        parameters: Iterable[Parameter],
        rate_dtype: str,
        new: Callable[[str], str],
    ) -> None:
        """Adds the nodes that compute `new(state)` for each state.

        Args:
            write: The writer of the graph, which has the inputs `learning_rate` and the states.
            parameters: The parameters.
            rate_dtype: Dtype of `learning_rate`.
            new: Names the value that a state has after the step.
        """
        for p in parameters:
            number = partial(write.number, dtype=p.dtype)
            g = p.gradient
            if self.weight_decay:
                decay = write.node(
                    "Mul", [p.name, number(self.weight_decay)], like=f"{p.name}.decay"
                )
                g = write.node("Add", [g, decay], like=f"{p.name}.decayed_grad")
            if self.momentum:
                buffer = f"{p.name}.momentum_buffer"
                kept = write.node("Mul", [buffer, number(self.momentum)], like=f"{buffer}.kept")
                g = write.node("Add", [kept, g], new(buffer))
            rate = write.cast(LEARNING_RATE, rate_dtype, p.dtype)
            change = write.node("Mul", [g, rate], like=f"{p.name}.change")
            write.node("Sub", [p.name, change], new(p.name))


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
        self,
        write: Writer,
        parameters: Iterable[Parameter],
        rate_dtype: str,
        new: Callable[[str], str],
    ) -> None:
        """Adds the nodes that compute `new(state)` for each state.

        Args:
            write: The writer of the graph, which has the inputs `learning_rate` and the states.
            parameters: The parameters.
            rate_dtype: Dtype of `learning_rate`.
            new: Names the value that a state has after the step.
        """
        decay, *scalars = self._scalars(write, rate_dtype, new)
        for p in parameters:
            number, (beta1, beta2) = partial(write.number, dtype=p.dtype), self.betas
            step_size, root_correction = (write.cast(s, "float64", p.dtype) for s in scalars)
            m, v = f"{p.name}.exp_avg", f"{p.name}.exp_avg_sq"

            difference = write.node("Sub", [p.gradient, m], like=f"{m}.difference")
            change = write.node("Mul", [difference, number(1 - beta1)], like=f"{m}.change")
            m_new = write.node("Add", [m, change], new(m))

            square = write.node("Mul", [p.gradient, p.gradient], like=f"{v}.square")
            added = write.node("Mul", [square, number(1 - beta2)], like=f"{v}.added")
            kept = write.node("Mul", [v, number(beta2)], like=f"{v}.kept")
            v_new = write.node("Add", [kept, added], new(v))

            root = write.node("Sqrt", [v_new], like=f"{v}.root")
            corrected = write.node("Div", [root, root_correction], like=f"{v}.corrected")
            denominator = write.node("Add", [corrected, number(self.eps)], like=f"{v}.denominator")
            direction = write.node("Div", [m_new, denominator], like=f"{p.name}.direction")
            change = write.node("Mul", [direction, step_size], like=f"{p.name}.change")
            decayed = p.name
            if decay is not None:
                kept = write.cast(decay, "float64", p.dtype)
                decayed = write.node("Mul", [p.name, kept], like=f"{p.name}.decayed")
            write.node("Sub", [decayed, change], new(p.name))

    def _scalars(
        self, write: Writer, rate_dtype: str, new: Callable[[str], str]
    ) -> tuple[str | None, str, str]:
        """1 - learning_rate * weight_decay, learning_rate / (1 - beta1^t) and sqrt(1 - beta2^t).

        In float64, as PyTorch computes them: 1 - 0.999^t in float32 has an error of 6e-5 at t = 1.
        """
        number = partial(write.number, dtype="float64")
        one = number(1.0)
        steps = write.node("Add", [STEP, write.number(1, "int64")], new(STEP))
        t = write.cast(steps, "int64", "float64")
        rate = write.cast(LEARNING_RATE, rate_dtype, "float64")

        decay = None
        if self.weight_decay:
            weight_decay = number(self.weight_decay)
            decay = write.node("Mul", [rate, weight_decay], like="adamw.weight_decay")
            decay = write.node("Sub", [one, decay], like="adamw.kept")
        corrections = []
        for index, beta in enumerate(self.betas, 1):
            power = write.node("Pow", [number(beta), t], like=f"adamw.beta{index}_power")
            corrections.append(
                write.node("Sub", [one, power], like=f"adamw.bias_correction{index}")
            )
        step_size = write.node("Div", [rate, corrections[0]], like="adamw.step_size")
        root_correction = write.node("Sqrt", [corrections[1]], like="adamw.root_bias_correction2")
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
