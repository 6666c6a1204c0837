# SPDX-License-Identifier: MIT
"""The progress bar of a training, where tqdm is installed."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

_INTERVAL = 0.2
"""Seconds between two numbers on the bar: each costs more than a small step."""


class Progress:
    """Shows epochs, batches and losses.

    Args:
        wanted: Whether there is a bar at all.
        epochs: The number of epochs at the end.
    """

    def __init__(self, wanted: bool, epochs: int) -> None:
        self._bar: Any = None
        self._next = 0.0
        self._last: tuple[int, float] | None = None
        self._evaluation = ""
        if wanted:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(desc="training", unit="step")
            self._epochs = epochs

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._tell()
            self._bar.close()

    def show(self, epoch: int, loss: float) -> None:
        """Counts a step."""
        if self._bar is None:
            return
        self._bar.update()
        self._last = epoch, loss
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._tell()

    def evaluated(self, loss: float) -> None:
        """Notes the loss on held-out data."""
        self._evaluation = f", held out {loss:.4g}"

    def _tell(self) -> None:
        """Puts the last step's epoch and loss on the bar."""
        if self._last is not None:
            epoch, loss = self._last
            place = f"epoch {epoch + 1}/{self._epochs}"
            self._bar.set_postfix_str(f"{place}, loss {loss:.4g}{self._evaluation}", refresh=False)
