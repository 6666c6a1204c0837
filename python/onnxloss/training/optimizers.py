# SPDX-License-Identifier: MIT
"""PyTorch's optimizers, SGD, Adam and AdamW, as standard ONNX nodes."""

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
        momentum_buffer = momentum * momentum_buffer + (1 - dampening) * g     (g at first)
        g = g + momentum * momentum_buffer     (with nesterov; else g = momentum_buffer)
        p = p - learning_rate * g

    Without a momentum the middle lines are left out.

    Attributes:
        momentum: At least 0; with 0 there is no buffer.
        dampening: At least 0.
        weight_decay: At least 0.
        nesterov: Needs a momentum, and no dampening.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            allowed = "False, or a momentum above 0 and a dampening of 0"
            raise expected("training_step", "nesterov", True, allowed)

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of a parameter's moments."""
        return ("momentum_buffer",) if self.momentum else ()

    @property
    def counts_steps(self) -> bool:
        """Whether the update depends on the number of steps: the first is not dampened."""
        return self.momentum != 0 and self.dampening != 0

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
        share = self._undamped_share(write, new) if self.counts_steps else None
        for p in parameters:
            g = p.gradient
            if self.weight_decay:
                g = _with_decay(write, p, self.weight_decay)
            if self.momentum:
                g = self._with_momentum(write, p, g, share, new)
            rate = write.cast(LEARNING_RATE, rate_dtype, p.dtype)
            change = write.node("Mul", [g, rate], like=f"{p.name}.change")
            write.node("Sub", [p.name, change], new(p.name))

    def _with_momentum(
        self, write: Writer, p: Parameter, g: str, share: str | None, new: Callable[[str], str]
    ) -> str:
        """The direction of the update; also writes the buffer."""
        momentum = write.number(self.momentum, p.dtype)
        buffer = f"{p.name}.momentum_buffer"
        kept = write.node("Mul", [buffer, momentum], like=f"{buffer}.kept")
        added = g
        if share is not None:
            share = write.cast(share, "float64", p.dtype)
            added = write.node("Mul", [g, share], like=f"{buffer}.added")
        result = write.node("Add", [kept, added], new(buffer))
        if not self.nesterov:
            return result
        ahead = write.node("Mul", [result, momentum], like=f"{buffer}.ahead")
        return write.node("Add", [g, ahead], like=f"{p.name}.direction")

    def _undamped_share(self, write: Writer, new: Callable[[str], str]) -> str:
        """1 at the first step, then 1 - dampening."""
        first = write.node("Equal", [STEP, write.number(0, "int64")], like="sgd.is_first")
        write.node("Add", [STEP, write.number(1, "int64")], new(STEP))
        choices = [write.number(share, "float64") for share in (1.0, 1.0 - self.dampening)]
        return write.node("Where", [first, *choices], like="sgd.undamped_share")


@dataclass(frozen=True)
class Adam:
    """torch.optim.Adam: Adam with bias correction; the weight decay is part of the gradient.

        step = step + 1
        g = gradient + weight_decay * p
        exp_avg = exp_avg + (1 - beta1) * (g - exp_avg)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g^2
        denominator = sqrt(exp_avg_sq) / sqrt(1 - beta2^step) + eps
        p = p - learning_rate / (1 - beta1^step) * exp_avg / denominator

    With amsgrad the largest exp_avg_sq so far, `max_exp_avg_sq`, is in the denominator.

    Attributes:
        betas: beta1 and beta2, each in [0, 1).
        eps: At least 0.
        weight_decay: At least 0.
        amsgrad: Whether the denominator never shrinks.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    counts_steps = True
    decoupled = False

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of a parameter's moments."""
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] * self.amsgrad))

    def update(
        self,
        write: Writer,
        parameters: Iterable[Parameter],
        rate_dtype: str,
        new: Callable[[str], str],
    ) -> None:
        """Adds the nodes that compute `new(state)` for each state; arguments as of `Sgd.update`."""
        step_size, root_correction, decay = self._scalars(write, rate_dtype, new)
        for p in parameters:
            number, (beta1, beta2) = partial(write.number, dtype=p.dtype), self.betas
            g, decayed, m, v = p.gradient, p.name, f"{p.name}.exp_avg", f"{p.name}.exp_avg_sq"
            if decay is not None:
                kept = write.cast(decay, "float64", p.dtype)
                decayed = write.node("Mul", [p.name, kept], like=f"{p.name}.decayed")
            elif self.weight_decay:
                g = _with_decay(write, p, self.weight_decay)

            difference = write.node("Sub", [g, m], like=f"{m}.difference")
            change = write.node("Mul", [difference, number(1 - beta1)], like=f"{m}.change")
            m_new = write.node("Add", [m, change], new(m))

            square = write.node("Mul", [g, g], like=f"{v}.square")
            added = write.node("Mul", [square, number(1 - beta2)], like=f"{v}.added")
            kept = write.node("Mul", [v, number(beta2)], like=f"{v}.kept")
            v_new = write.node("Add", [kept, added], new(v))
            if self.amsgrad:
                largest = f"{p.name}.max_exp_avg_sq"
                v_new = write.node("Max", [largest, v_new], new(largest))

            root = write.node("Sqrt", [v_new], like=f"{v}.root")
            correction = write.cast(root_correction, "float64", p.dtype)
            corrected = write.node("Div", [root, correction], like=f"{v}.corrected")
            denominator = write.node("Add", [corrected, number(self.eps)], like=f"{v}.denominator")
            direction = write.node("Div", [m_new, denominator], like=f"{p.name}.direction")
            size = write.cast(step_size, "float64", p.dtype)
            change = write.node("Mul", [direction, size], like=f"{p.name}.change")
            write.node("Sub", [decayed, change], new(p.name))

    def _scalars(
        self, write: Writer, rate_dtype: str, new: Callable[[str], str]
    ) -> tuple[str, str, str | None]:
        """learning_rate / (1 - beta1^t), sqrt(1 - beta2^t), 1 - learning_rate * weight_decay.

        In float64, as PyTorch computes them: 1 - 0.999^t in float32 has an error of 6e-5 at t = 1.
        """
        number = partial(write.number, dtype="float64")
        one = number(1.0)
        steps = write.node("Add", [STEP, write.number(1, "int64")], new(STEP))
        t = write.cast(steps, "int64", "float64")
        rate = write.cast(LEARNING_RATE, rate_dtype, "float64")

        corrections = []
        for index, beta in enumerate(self.betas, 1):
            power = write.node("Pow", [number(beta), t], like=f"adam.beta{index}_power")
            corrections.append(write.node("Sub", [one, power], like=f"adam.bias_correction{index}"))
        step_size = write.node("Div", [rate, corrections[0]], like="adam.step_size")
        root_correction = write.node("Sqrt", [corrections[1]], like="adam.root_bias_correction2")
        decay = None
        if self.decoupled and self.weight_decay:
            decay = write.node("Mul", [rate, number(self.weight_decay)], like="adam.weight_decay")
            decay = write.node("Sub", [one, decay], like="adam.kept")
        return step_size, root_correction, decay


@dataclass(frozen=True)
class AdamW(Adam):
    """torch.optim.AdamW: Adam whose weight decay is apart from the gradient.

    As Adam with g = gradient, and p = p * (1 - learning_rate * weight_decay) comes first.
    """

    weight_decay: float = 1e-2

    decoupled = True


def _with_decay(write: Writer, p: Parameter, weight_decay: float) -> str:
    number = write.number(weight_decay, p.dtype)
    decay = write.node("Mul", [p.name, number], like=f"{p.name}.decay")
    return write.node("Add", [p.gradient, decay], like=f"{p.name}.decayed_grad")


Optimizer = Sgd | Adam
OPTIMIZERS: dict[str, type[Sgd] | type[Adam]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}
MOMENTS = ("momentum_buffer", *Adam(amsgrad=True).moments)


def make_optimizer(name: str, hyperparameters: Mapping[str, Any]) -> Optimizer:
    """The optimizer with its hyperparameters, validated.

    Raises:
        LossError: An unknown optimizer, or a hyperparameter that it does not have or allow.
    """
    if name not in OPTIMIZERS:
        raise expected("training_step", "optimizer", name, " or ".join(OPTIMIZERS))
    kind = OPTIMIZERS[name]
    defaults = {entry.name: entry.default for entry in fields(kind)}
    for key in hyperparameters:
        if key not in defaults:
            raise LossError(
                f"training_step: {key} is not a hyperparameter of {name}; "
                f"expected {', '.join(defaults)}."
            )
    return kind(**{key: _valid(key, v, defaults[key]) for key, v in hyperparameters.items()})


def _valid(key: str, value: Any, default: Any) -> Any:
    """The value as a plain Python number, pair or bool."""
    if isinstance(default, bool):
        if not isinstance(value, bool | np.bool_):
            raise expected("training_step", key, value, "True or False")
        return bool(value)
    if isinstance(default, tuple):
        pair = tuple(value) if isinstance(value, list | tuple) else ()
        if len(pair) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in pair):
            raise expected("training_step", key, value, "two numbers in [0, 1)")
        return tuple(float(beta) for beta in pair)
    if not (is_number(value) and value >= 0):
        raise expected("training_step", key, value, "a finite number of at least 0")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is an integer, Python's or numpy's, of at least `least`, and no bool."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= least)
