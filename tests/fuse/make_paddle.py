# SPDX-License-Identifier: MIT
"""Losses through paddle2onnx: `python -m tests.fuse.make_paddle`.

paddle2onnx aborts the process where it fails, so that each model is made in one of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a compiler cache that is not there
    import paddle
from paddle.nn import functional as F

from tests.fuse.recording import record

CLASSES = 5
ROWS = (None, CLASSES)
COLUMN = (None, 1)
WEIGHT = np.array([0.25, 0.5, 1.0, 2.0, 0.75], np.float32)


@dataclass(frozen=True)
class Form:
    """A loss of a layer with class weights `w`, logits and labels; the shapes of both."""

    loss: Callable[[Any, Any, Any], Any]
    shape: tuple[int | None, ...] = ROWS
    labels: tuple[int | None, ...] = COLUMN
    dense: bool = False


def _entropy(**settings: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda w, x, y: F.cross_entropy(x, y, **settings)


def _softmax_entropy(**settings: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda w, x, y: F.softmax_with_cross_entropy(x, y, **settings)


def _picked(w: Any, x: Any, y: Any) -> Any:
    return -paddle.take_along_axis(F.log_softmax(x), y, 1).sum()


def _multiplied(w: Any, x: Any, y: Any) -> Any:
    return -(F.one_hot(y, CLASSES) * F.log_softmax(x)).sum()


FORMS = {
    "none": Form(_entropy(reduction="none")),
    "none_flat": Form(_entropy(reduction="none"), labels=(None,)),
    "none_kdim": Form(_entropy(reduction="none", axis=1), (None, CLASSES, 3), (None, 1, 3)),
    "sum": Form(_entropy(reduction="sum")),
    "sum_tokens": Form(_entropy(reduction="sum"), (None, 3, CLASSES), (None, 3, 1)),
    "mean": Form(_entropy()),
    "mean_ignoring": Form(_entropy(ignore_index=2)),
    "mean_weighted": Form(lambda w, x, y: F.cross_entropy(x, y, weight=w)),
    "soft": Form(_entropy(soft_label=True, reduction="none"), labels=ROWS, dense=True),
    "soft_sum": Form(_entropy(soft_label=True, reduction="sum"), labels=ROWS, dense=True),
    "softmax_with_cross_entropy": Form(_softmax_entropy()),
    "softmax_with_cross_entropy_soft": Form(
        _softmax_entropy(soft_label=True), labels=ROWS, dense=True
    ),
    "softmax_too": Form(_softmax_entropy(return_softmax=True)),
    "gather": Form(_picked),
    "one_hot": Form(_multiplied, labels=(None,)),
}


class Layer(paddle.nn.Layer):
    """A loss as a layer."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        initializer = paddle.nn.initializer.Assign(WEIGHT)
        self.w = self.create_parameter([CLASSES], default_initializer=initializer)
        self.w.stop_gradient = True
        self._form = form

    def forward(self, x: Any, y: Any) -> Any:
        """The loss."""
        return self._form.loss(self.w, x, y)


def make(name: str) -> onnx.ModelProto:
    """The model of a form."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuse.make_paddle", name, folder],
            capture_output=True,
            text=True,
            check=False,
        )
        path = Path(folder) / "model.onnx"
        if done.returncode or not path.exists():
            raise RuntimeError(f"{name}: {done.stdout[-400:]}{done.stderr[-400:]}")
        return onnx.load(path)


def arrays(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels."""
    rng = np.random.default_rng(1)
    shape, labels = (tuple(size or 4 for size in sizes) for sizes in (form.shape, form.labels))
    logits = rng.standard_normal(shape).astype(np.float32)
    if form.dense:
        return logits, rng.dirichlet(np.ones(CLASSES), labels[:-1]).astype(np.float32)
    return logits, rng.integers(0, CLASSES, labels)


def _export(name: str, folder: str) -> None:
    form = FORMS[name]
    layer = Layer(form)
    layer.eval()
    spec = [
        paddle.static.InputSpec(list(form.shape), "float32", "x"),
        paddle.static.InputSpec(list(form.labels), "float32" if form.dense else "int64", "y"),
    ]
    path = str(Path(folder) / "model")
    paddle.onnx.export(layer, path, input_spec=spec, opset_version=19, optimize_tool=None)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _export(*sys.argv[1:])
    else:
        record("paddle2onnx", FORMS, make)
