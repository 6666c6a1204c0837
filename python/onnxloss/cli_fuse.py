# SPDX-License-Identifier: MIT
"""`onnxloss fuse`: this project's operators for the losses that a model has."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .cli_files import load, save
from .errors import expected
from .fusion import find_and_fuse


def run(options: argparse.Namespace) -> None:
    """Writes the fused model; prints what was fused, and what was left alone and why."""
    inputs = None if options.inputs is None else _arrays(options.inputs)
    fusion = find_and_fuse(load(options.model), inputs=inputs)
    save(fusion.model, options)
    for fused in fusion.fused:
        print(f"fused  {fused}")
    for left in fusion.left:
        print(f"left   {left}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, TypeError) as error:
        raise expected("onnxloss", "--inputs", str(path), "a file of numpy.savez") from error
