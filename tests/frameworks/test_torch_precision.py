# SPDX-License-Identifier: MIT
"""The kernels' error against that of PyTorch's own loss, on the same rows, in ulp.

The truth is formed in long double from the rows' differences to their largest number. Within
ROUNDING, PyTorch may be luckier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import onnxloss  # noqa: E402
from onnxloss.from_torch import tensor_to_array  # noqa: E402
from tests.cases import DTYPES  # noqa: E402
from tests.runtime import run_model  # noqa: E402
from tests.test_accuracy import ulp_errors  # noqa: E402

# As in tests/test_accuracy.py, with fewer rows.
SHAPES = ((1024, 10), (256, 95), (128, 319), (64, 1000), (16, 5000), (2, 70001))
ROUNDING = 1.0
TORCH_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
Rows = Callable[[np.random.Generator, np.ndarray, np.ndarray], None]


def normal(rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray) -> None:
    """Standard normal rows."""


def wide(rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray) -> None:
    logits *= 10


def confident(rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray) -> None:
    logits[np.arange(len(labels)), labels] += 15


def wrong(rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray) -> None:
    logits[np.arange(len(labels)), labels] -= 40


def offset(rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray) -> None:
    # Exact in 16 bits too.
    logits[...] = 512 + 4 * rng.integers(-2, 3, logits.shape)


def masked(rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray) -> None:
    mask = rng.random(logits.shape) < 0.5
    mask[np.arange(len(labels)), labels] = False
    logits[mask] = -np.inf


ROWS: tuple[Rows, ...] = (normal, wide, confident, wrong, offset, masked)


def truth(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The loss and its gradient: log(1 + the others' sum) and -the others' share at the target."""
    x, rows = logits.astype(np.longdouble), np.arange(len(labels))
    largest = x.argmax(1)
    e = np.exp(x - x[rows, largest][:, None])
    below, others = e.copy(), e.copy()
    below[rows, largest] = 0
    others[rows, labels] = 0
    p = e / e.sum(1, keepdims=True)
    p[rows, labels] = -others.sum(1) / e.sum(1)
    loss = (x[rows, largest] - x[rows, labels]) + np.log1p(below.sum(1))
    return {"loss": loss, "dlogits": p}


def by_torch(logits: np.ndarray, labels: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    tensor = torch.from_numpy(logits.astype(np.float64)).to(TORCH_DTYPES[dtype]).requires_grad_()
    loss = torch.nn.functional.cross_entropy(tensor, torch.from_numpy(labels), reduction="none")
    loss.sum().backward()
    return {"loss": tensor_to_array(loss), "dlogits": tensor_to_array(tensor.grad)}


def by_kernel(logits: np.ndarray, labels: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    config = onnxloss.from_torch("torch.nn.functional.cross_entropy", reduction="none")
    model = onnxloss.export(config, logits=logits.shape, dtype=dtype, gradient=True)
    feeds = {"logits": logits, "labels": labels, "dloss": np.ones(len(labels), logits.dtype)}
    return run_model(model, feeds, library=True)


def worst(result: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest error of each output in units in the last place."""
    return {name: float(ulp_errors(result[name], truth[name]).max()) for name in truth}


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: rows.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_never_worse_than_torch(shape: tuple[int, int], rows: Rows, dtype: str) -> None:
    rng = np.random.default_rng(shape)
    logits, labels = rng.standard_normal(shape), rng.integers(0, shape[1], shape[0])
    rows(rng, logits, labels)
    logits = logits.astype(DTYPES[dtype])
    exact = truth(logits, labels)
    ours = worst(by_kernel(logits, labels, dtype), exact)
    theirs = worst(by_torch(logits, labels, dtype), exact)
    for name, error in ours.items():
        assert error <= max(theirs[name], ROUNDING), name
