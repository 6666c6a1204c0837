# SPDX-License-Identifier: MIT
"""`onnxloss bench`: the times of body and kernel of each loss of a model."""

from __future__ import annotations

import argparse
import json

from .cli_files import load
from .errors import LossError
from .onnxscript_defs import DOMAIN
from .timing import Timed, bench

DYNAMIC = 1024
"""What a dynamic dimension is timed with, unless it is said."""


def run(options: argparse.Namespace) -> None:
    """Prints them.

    Raises:
        LossError: The model has no loss, or none that can be timed.
    """
    sizes = {"": DYNAMIC, **dict(options.size or ())}
    losses = bench(load(options.model), sizes=sizes, threads=options.threads)
    if not losses:
        raise LossError(f"bench: the model has no loss: no node of the domain {DOMAIN}.")
    if options.json:
        found = [loss.as_json() for loss in losses]
        print(json.dumps({"threads": options.threads, "losses": found}, indent=2))
    else:
        print(_table(losses, options.threads))
    if all(loss.reason for loss in losses):
        raise LossError(f"bench: no loss could be timed: {losses[0].reason}.")


def _table(losses: list[Timed], threads: int) -> str:
    rows: list[tuple[str, ...]] = [("loss", "logits", "body", "kernel", "ratio", "runs")]
    for loss in losses:
        name = f"{loss.op_type} {loss.name}"
        if loss.body_ms is None or loss.kernel_ms is None or loss.ratio is None:
            rows.append((name, loss.reason, "", "", "", ""))
            continue
        shape = f"{'x'.join(map(str, loss.shape))} {loss.dtype}"
        times = (f"{value:.3f} ms" for value in (loss.body_ms, loss.kernel_ms))
        rows.append((name, shape, *times, f"{loss.ratio:.1f}", str(loss.runs)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.append(f"medians, {threads} thread{'s' if threads > 1 else ''}; ratio: body / kernel")
    return "\n".join(lines)
