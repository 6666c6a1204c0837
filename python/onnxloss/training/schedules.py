# SPDX-License-Identifier: MIT
"""Learning rates that change: functions of the number of updates so far.

A Trainer takes any such function; a number is a constant rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import expected
from .optimizers import is_count, is_number

Schedule = Callable[[int], float]


def linear_warmup(peak: float, warmup_steps: int, then: Schedule | None = None) -> Schedule:
    """Rises in equal parts: peak * (t + 1) / warmup_steps, for t < warmup_steps.

    Args:
        peak: The rate at the end of the rise, which is at t = warmup_steps - 1.
        warmup_steps: At least 1.
        then: The schedule after it, which begins at its own 0; `peak` for ever if not given.
    """
    _check_rates("linear_warmup", peak=peak)
    _check_counts("linear_warmup", warmup_steps=warmup_steps)
    if not (then is None or callable(then)):
        raise expected(
            "linear_warmup", "then", then, "a function of the number of updates, or None"
        )

    def rate(t: int) -> float:
        if t < warmup_steps:
            return peak * (t + 1) / warmup_steps
        return peak if then is None else then(t - warmup_steps)

    return rate


def cosine(peak: float, steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Falls along half a cosine: final + (peak - final) * (1 + cos(pi * t / steps)) / 2.

    As torch.optim.lr_scheduler.CosineAnnealingLR, but `final` for ever after.

    Args:
        peak: The first rate.
        steps: The number of updates to `final`; those of the warm-up come before.
        warmup_steps: Updates of a linear warm-up to `peak`.
        final: The last rate.
    """
    _check_rates("cosine", peak=peak, final=final)
    _check_counts("cosine", steps=steps)

    def rate(t: int) -> float:
        return final + (peak - final) * (1 + math.cos(math.pi * min(t, steps) / steps)) / 2

    return linear_warmup(peak, warmup_steps, rate) if warmup_steps else rate


def step_decay(first: float, every: int, factor: float = 0.1) -> Schedule:
    """Falls in steps: first * factor^(t // every), as torch.optim.lr_scheduler.StepLR.

    Args:
        first: The first rate.
        every: The number of updates between two steps.
        factor: What a step multiplies the rate by.
    """
    _check_rates("step_decay", first=first, factor=factor)
    _check_counts("step_decay", every=every)
    return lambda t: first * factor ** (t // every)


def _check_rates(where: str, **rates: float) -> None:
    for name, rate in rates.items():
        if not (is_number(rate) and rate >= 0):
            raise expected(where, name, rate, "a finite number of at least 0")


def _check_counts(where: str, **counts: int) -> None:
    for name, count in counts.items():
        if not is_count(count):
            raise expected(where, name, count, "an integer of at least 1")
