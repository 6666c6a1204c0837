# SPDX-License-Identifier: MIT
"""A picture of a training's losses."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..errors import LossError


def plot_losses(
    path: str | os.PathLike[str],
    losses: Sequence[float],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """Draws the loss of each step, its running mean and the evaluations.

    Args:
        path: The picture; its ending says the format.
        losses: The loss of each step.
        evaluations: Steps and the losses on held-out data after them.

    Raises:
        LossError: The matplotlib package is missing, or there is nothing to draw.
    """
    if not losses:
        raise LossError("Trainer.plot: there are no losses yet; expected a step or more.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LossError(
            "Trainer.plot: the matplotlib package is missing; expected it for pictures: "
            "pip install matplotlib."
        ) from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="each step")
    window = max(1, len(losses) // 50)
    if window > 1:
        mean = np.convolve(losses, np.full(window, 1 / window), mode="valid")
        label = f"mean of {window} steps"
        axes.plot(steps[window - 1 :], mean, color="tab:blue", linewidth=1.5, label=label)
    if evaluations:
        at, values = zip(*evaluations, strict=True)
        axes.plot(at, values, color="tab:orange", marker=".", linewidth=1, label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
