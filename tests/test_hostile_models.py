# SPDX-License-Identifier: MIT
"""Hostile models end in an exception of ONNX Runtime, never in a crash or a number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_models import cases, operators

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", operators())
def test_hostile_models(name: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.hostile_models", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = finished.stdout.splitlines()
    started = [line for line in lines if line.startswith("case: ")]
    assert finished.returncode == 0, (finished.returncode, started[-1:], finished.stderr[-2000:])
    answers = [line.split(": ")[0] for line in lines if line.startswith(("right: ", "wrong: "))]
    assert len(answers) == len(started) == sum(1 for _ in cases(*operators()[name])) > 100
    wrong = [case for case, answer in zip(started, answers, strict=True) if answer == "wrong"]
    assert wrong == []
