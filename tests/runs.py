# SPDX-License-Identifier: MIT
"""Configurations run on small inputs, for what holds between two runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxloss
from tests import reference
from tests.cases import DTYPES, HARD, OPS
from tests.runtime import run_model
from tests.tolerance import eps

both_ways = pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
both_losses = pytest.mark.parametrize("loss", OPS)


def make_inputs(loss: str, shape: tuple[int, int], dtype: str = "float32") -> dict[str, np.ndarray]:
    """Logits, labels and an upstream gradient."""
    rng = np.random.default_rng(7)
    # Eighths of small numbers: exact in every dtype, and so is their sum with a power of two.
    logits = rng.integers(-24, 25, shape) / 8
    hard = rng.integers(0, shape[1], shape[0])
    labels = hard if loss == HARD else rng.dirichlet(np.ones(shape[1]), shape[0])
    return {
        "logits": logits.astype(DTYPES[dtype]),
        "labels": labels.astype(np.int64 if loss == HARD else DTYPES[dtype]),
        "dloss": np.asarray(1.5, DTYPES[dtype]),
    }


def run_config(
    loss: str,
    arrays: dict[str, np.ndarray],
    *,
    library: bool,
    class_weights: Any = None,
    outputs: tuple[str, ...] = ("loss",),
    **attributes: Any,
) -> dict[str, np.ndarray]:
    """Gradient and outputs; sample weights if there are any in the arrays."""
    sampled = "sample_weights" in arrays
    model = onnxloss.export(
        onnxloss.LossConfig(
            OPS[loss], attributes, class_weights=class_weights, sample_weights=sampled
        ),
        logits=arrays["logits"].shape,
        sample_weights=arrays["sample_weights"].shape if sampled else None,
        dtype=arrays["logits"].dtype.name,
        gradient=True,
        outputs=outputs,
    )
    return run_model(model, arrays, library=library)


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray], units: float) -> None:
    """Asserts that two runs agree within `units` of the dtype."""
    for name, values in left.items():
        atol = units * eps(values.dtype)
        np.testing.assert_allclose(values, right[name], rtol=atol, atol=atol)


def reference_of(loss: str, arrays: dict[str, np.ndarray], **settings: Any) -> dict[str, Any]:
    """What loss and gradient must be."""
    result = getattr(reference, loss)(
        arrays["logits"],
        arrays["labels"],
        arrays["dloss"],
        arrays.get("class_weights"),
        arrays.get("sample_weights"),
        **settings,
    )
    return dict(zip(("loss", "dlogits"), result, strict=True))
