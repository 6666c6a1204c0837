# SPDX-License-Identifier: MIT
"""The CUDA kernels under the thread sanitizer: a missing barrier is a data race."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import cuda_on_host


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/cpp/cuda_races.cc, instrumented."""
    folder = tmp_path_factory.mktemp("races")
    compiler = cuda_on_host.compiler()
    flag = "-fsanitize=thread"
    probe = folder / "probe.cc"
    probe.write_text("int main() {}")
    command = [compiler, flag, str(probe), "-o", str(folder / "probe")]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("the compiler has no thread sanitizer")
    commands = cuda_on_host.emulated(flag, "-g", main="cuda_races.cc")
    objects = cuda_on_host.build(folder, [*commands, *cuda_on_host.plans()])
    subprocess.run([compiler, flag, *objects, "-o", str(folder / "races")], check=True)
    return folder / "races"


def run(program: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_data_race(program: Path) -> None:
    result = run(program)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr


def test_a_missing_barrier_is_seen(program: Path) -> None:
    """Where the barriers of blocks and clusters order nothing, each use of one is a race."""
    result = run(program, EMULATOR_BARRIERS_ORDER_NOTHING="1")
    assert result.returncode != 0
    summaries = [line for line in result.stderr.splitlines() if line.startswith("SUMMARY")]
    for function in ("FinishCluster", "SumOfBlock", "VisitLanes", "OfFirstLane", "RowInTile"):
        assert any(function in line for line in summaries), summaries
