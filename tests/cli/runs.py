# SPDX-License-Identifier: MIT
"""One command and its one line of error."""

from __future__ import annotations

import pytest

from onnxloss.cli import main

CROSS_ENTROPY = ["--api", "torch.nn.CrossEntropyLoss"]


def export(*options: str, output: str = "loss.onnx") -> int:
    return main(["export", *CROSS_ENTROPY, "--logits", "N,3", "-o", output, *options])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    text = capsys.readouterr().err
    assert text.startswith("onnxloss: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.removeprefix("onnxloss: error: ").rstrip("\n")
