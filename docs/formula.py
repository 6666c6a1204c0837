# SPDX-License-Identifier: MIT
"""Draws the formulas of the site, so that no page needs a script or a font."""

from __future__ import annotations

import re
from typing import Any

import ziamath

SIZE = 15
"""Of the letters, in pixels."""


def svg(source: str, language: str, css_class: str, *_: Any, **__: Any) -> str:
    """A fenced block of LaTeX as SVG in the colour of the text."""
    # In \text{} ziamath takes an underscore for itself.
    drawn = ziamath.Latex(source.replace(r"\_", "_"), size=SIZE, color="currentColor").svg()
    return f'<div class="{css_class}">{drawn}</div>'


def anchor(title: str, separator: str) -> str:
    """The anchor that GitHub gives a heading, so that links work in both places."""
    return re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", separator)
