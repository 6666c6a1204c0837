# SPDX-License-Identifier: MIT
"""`onnxloss view` as a process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType


class Viewer:
    """`onnxloss view` of one model, in a process of its own."""

    def __init__(self, model: Path, ending: signal.Signals = signal.SIGTERM) -> None:
        self._ending = ending
        command = ["onnxloss", "view", model, "--host", "127.0.0.1", "--no-browser"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        """The address that it serves at."""
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + self._process.stderr.read()
        return found.group()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(self._ending)
        with self._process:
            assert self._process.wait(60) == 0
