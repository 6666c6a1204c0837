# SPDX-License-Identifier: MIT
"""Resident memory that runs and sessions take beside inputs and outputs; see session_memory.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEGABYTE = 1 << 20
# For 640 sessions and 6400 registrations: a library that is loaded anew each time leaves 60 MB
# behind. 1 MB more or less is chance.
CHURN_BOUND = 4 * MEGABYTE

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells and resets the peak"
)


def measure(*arguments: str) -> int:
    """What tests/session_memory.py prints in a fresh process."""
    command = [sys.executable, "-m", "tests.session_memory", *arguments]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "loss and gradient"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1024, 32000), (256, 128256)], ids=["1024x32000", "256x128256"])
def test_a_run_takes_no_memory_of_its_own(
    shape: tuple[int, int], dtype: str, gradient: bool
) -> None:
    assert measure("peak", *map(str, shape), dtype, str(int(gradient))) <= MEGABYTE


def test_sessions_that_are_closed_leave_nothing() -> None:
    assert measure("churn", "32", "20") <= CHURN_BOUND
