# SPDX-License-Identifier: MIT
"""Times the function body and the kernel of each loss of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from .errors import LossError, expected
from .node_trials import LossNode, losses_of, trial_of
from .trial import inferred, make_session, run_session, typed_values

SECONDS = 1.0
"""How long each loss is timed, in both ways together."""

FEWEST, MOST = 5, 1000
WARM_UP = 2


@dataclass(frozen=True)
class Timed:
    """The times of a loss: medians in milliseconds, or why there are none."""

    name: str
    op_type: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    body_ms: float | None = None
    kernel_ms: float | None = None
    ratio: float | None = None
    runs: int = 0
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same for `json.dumps`."""
        return asdict(self)


def bench(
    model: onnx.ModelProto, *, sizes: Mapping[str, int] | int, threads: int = 1
) -> list[Timed]:
    """Times each loss of a model by itself, on random data.

    Args:
        model: The model.
        sizes: The size of each dynamic dimension by its name, "" for the others; or one for all.
        threads: ONNX Runtime's threads within an operator.

    Raises:
        LossError: A size is that of a dimension which the model does not have.
    """
    typed = inferred(model, "bench")
    names = {
        dim.dim_param
        for value in typed_values(typed).values()
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    for name in () if isinstance(sizes, int) else sizes:
        if name and name not in names:
            allowed = f"a dynamic dimension of the model: {', '.join(sorted(names)) or 'none'}"
            raise expected("bench", "name of a size", name, allowed)
    return [_timed(typed, loss, sizes, threads) for loss in losses_of(typed)]


def _timed(
    model: onnx.ModelProto, loss: LossNode, sizes: Mapping[str, int] | int, threads: int
) -> Timed:
    try:
        trial = trial_of(model, loss, sizes)
        if loss.body is None:
            raise LossError("the file has no function body for it")
        logits = trial.feeds[loss.inputs["logits"]]
        if logits.dtype.name == "bfloat16":
            raise LossError("onnxruntime's Python interface takes no bfloat16 arrays")
        sessions = [
            make_session(trial.model, library=library, threads=threads) for library in (False, True)
        ]
        for session in sessions:
            run_session(session, trial.feeds)
    except LossError as error:
        return Timed(loss.name, loss.op.name, reason=str(error))
    times: tuple[list[float], list[float]] = [], []
    until = time.perf_counter() + SECONDS
    # In turn, so that whatever else the machine does falls on both.
    while len(times[0]) < WARM_UP + FEWEST or (
        time.perf_counter() < until and len(times[0]) < MOST
    ):
        for session, spent in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, trial.feeds)
            spent.append(1000 * (time.perf_counter() - start))
    body, kernel = (statistics.median(spent[WARM_UP:]) for spent in times)
    return Timed(
        loss.name,
        loss.op.name,
        tuple(logits.shape),
        logits.dtype.name,
        body,
        kernel,
        body / kernel,
        len(times[0]) - WARM_UP,
    )
