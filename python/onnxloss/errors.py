# SPDX-License-Identifier: MIT
"""The one exception of the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any


class LossError(ValueError):
    """A loss, a model or a setting that cannot be honoured, and what to do instead."""


def expected(where: str, name: str, value: Any, allowed: str, reason: str = "") -> LossError:
    """The error `<where>: <name> is <value>; expected <allowed>: <reason>.`"""
    shown = f'"{value}"' if isinstance(value, str) else value
    return LossError(f"{where}: {name} is {shown}; expected {_because(allowed, reason)}.")


def expected_shape(
    where: str, name: str, given: Sequence[Any], *allowed: Sequence[Any], reason: str = ""
) -> LossError:
    """The error `<where>: shape of <name> is [2, 3]; expected [2] or [2, 1]: <reason>.`"""
    shapes = _because(" or ".join(_shown(shape) for shape in allowed), reason)
    return LossError(f"{where}: shape of {name} is {_shown(given)}; expected {shapes}.")


def check_type(
    where: str, name: str, value: Any, kind: type[Any] | UnionType, allowed: str
) -> None:
    """Refuses an argument of another type, as a path in the place of a model.

    Raises:
        LossError: It is of another type.
    """
    if not isinstance(value, kind):
        shown = str(value) if isinstance(value, str | Path) else type(value).__name__
        raise expected(where, name, shown, allowed)


def root_of(error: BaseException) -> BaseException:
    """The error that others were raised from in turn."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _because(allowed: str, reason: str) -> str:
    return f"{allowed}: {reason}" if reason else allowed


def _shown(shape: Sequence[Any]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
