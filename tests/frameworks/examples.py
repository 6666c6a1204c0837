# SPDX-License-Identifier: MIT
"""How many random configurations are compared with a framework, and how they are drawn."""

from __future__ import annotations

import os

import hypothesis

EXAMPLES = int(os.environ.get("ONNXLOSS_EXAMPLES", "2000"))


def drawn(examples: int = EXAMPLES) -> hypothesis.settings:
    """So many configurations, the same ones each time."""
    return hypothesis.settings(
        max_examples=max(1, examples),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
