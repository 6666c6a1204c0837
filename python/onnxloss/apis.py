# SPDX-License-Identifier: MIT
"""What the exporters share: a loss's name, its settings, and the factors that frameworks ignore."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import LossConfig, Refusal
from .errors import LossError, expected


def path_of(loss: Any) -> str:
    """Where a loss given as an object is defined; a subclass may compute anything and has its own.

    Args:
        loss: A class or function, or an instance.
    """
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{kind.__module__}.{kind.__qualname__}"


def completed(
    where: str, api: str, known: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The value of each setting of an API.

    Args:
        where: The exporter, for error messages.
        api: The API's name, for error messages.
        known: The settings that it has, with their defaults.
        given: The settings that are given.

    Raises:
        LossError: One is given that it has not.
    """
    for name in given:
        if name not in known:
            raise LossError(
                f"{where}: {name} is not a setting of {api}; expected {', '.join(known)}."
            )
    return {**known, **given}


def settings_of(
    where: str, loss: Any, known: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that an instance has as attributes.

    Args:
        where: The exporter, for error messages.
        loss: The instance.
        known: The settings that its class has.
        given: What is given beside it.

    Raises:
        LossError: Something is given beside it.
    """
    refuse_beside(where, f"a {type(loss).__qualname__} instance", given)
    return {name: getattr(loss, name) for name in known if hasattr(loss, name)}


def refuse_beside(where: str, instance: str, given: Mapping[str, Any]) -> None:
    """Refuses settings beside an instance, which has its own.

    Raises:
        LossError: Some are given.
    """
    if given:
        raise LossError(
            f"{where}: {', '.join(given)} is given beside {instance}; "
            "set it on the instance, or give the loss by name."
        )


def integer(where: str, name: str, value: Any, allowed: str = "an integer") -> int:
    """An integer, Python's or numpy's, as Python's.

    Raises:
        LossError: It is something else; a bool is.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise expected(where, name, value, allowed)
    return int(value)


def refused_unbatched(axis: Any) -> dict[Refusal, str]:
    """Logits `[C]` have the axes 0 and -1 alone; the operators read 1 as 0 there, as PyTorch."""
    if axis in (0, -1):
        return {}
    return {"unbatched logits": f"axis is {axis}, which logits [C] have not"}


def beyond(config: LossConfig, z_loss: float, logit_softcap: float) -> LossConfig:
    """The loss with the settings that no framework has.

    Args:
        config: The loss as its framework has it.
        z_loss: Factor of the square of lse that is added to each position's loss (PaLM).
        logit_softcap: Above 0, logits x become cap * tanh(x / cap) first (Gemma 2).

    Raises:
        LossError: The loss takes probabilities, to which neither means anything, or a value is
            out of its range.
    """
    changed = {
        name: value
        for name, value in (("z_loss", z_loss), ("logit_softcap", logit_softcap))
        if value != 0
    }
    if not changed:
        return config
    if config.attributes.get("from_logits", 1) == 0:
        name, value = next(iter(changed.items()))
        reason = f"its inputs are probabilities, not logits: no softmax is in {config.source}"
        raise expected(config.op, name, value, "0", reason)
    other = config.other_labels
    return dataclasses.replace(
        config,
        attributes={**config.attributes, **changed},
        other_labels=None if other is None else beyond(other, z_loss, logit_softcap),
    )


def smoothing_factor(where: str, framework: str, value: Any) -> Any:
    """The factor where the framework smooths only above 0: a negative one or nan is taken for 0."""
    if isinstance(value, int | float | np.floating) and not value >= 0:
        warnings.warn(
            f"{where}: label_smoothing is {value}; {framework} takes it for 0, and so do we.",
            stacklevel=3,
        )
        return 0.0
    return value
