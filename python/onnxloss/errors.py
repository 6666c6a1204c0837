# SPDX-License-Identifier: MIT
"""The one exception of the package."""

from __future__ import annotations

from typing import Any


class LossError(ValueError):
    """A loss, a model or a setting that cannot be honoured, and what to do instead."""


def expected(where: str, name: str, value: Any, allowed: str) -> LossError:
    """The error `<where>: <name> is <value>; expected <allowed>.`"""
    shown = f'"{value}"' if isinstance(value, str) else value
    return LossError(f"{where}: {name} is {shown}; expected {allowed}.")
