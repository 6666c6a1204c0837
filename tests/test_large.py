# SPDX-License-Identifier: MIT
"""More than 2^31 elements, so that an offset of 32 bits would come out at another row."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxloss
from tests import reference
from tests.runtime import run_model

CLASSES = 131072
ROWS = 2**31 // CLASSES + 3
# Rows repeat with a period that shares no factor with any power of two.
PERIOD = 61
GIBIBYTE = 1 << 30
LOGITS = 2 * ROWS * CLASSES
# Of bfloat16, from float32 sums: right to rounding, with a gradient as small as 1e-6.
LOSS_BOUND = 2.0**-8


def available_memory() -> int:
    """Bytes that can be taken without swapping; 0 where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def test_a_model_of_2_gb_is_refused() -> None:
    if available_memory() < 5 * GIBIBYTE:
        pytest.skip("5 GiB of memory are not available")
    text = """
    <ir_version: 9, opset_import: ["": 19]>
    g (int64[N] x) => (float[N, 16] logits) { rows = Gather(w, x) logits = Cast<to=1>(rows) }
    """
    forward = onnx.parser.parse_model(text)
    weights = forward.graph.initializer.add(name="w", data_type=onnx.TensorProto.INT8)
    weights.dims.extend([2**27, 16])
    weights.raw_data = bytes(2**31)
    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss")
    with pytest.raises(onnxloss.LossError, match="append_to: the model holds 2 GB or more"):
        onnxloss.append_to(forward, config)


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "loss and gradient"])
def test_more_than_2_31_elements(gradient: bool) -> None:
    needed = LOGITS * (2 if gradient else 1) + 2 * GIBIBYTE
    if available_memory() < needed:
        pytest.skip(f"{needed / GIBIBYTE:.1f} GiB of memory are not available")
    rng = np.random.default_rng(31)
    pool = (3 * rng.standard_normal((PERIOD, CLASSES), np.float32)).astype(ml_dtypes.bfloat16)
    pool_labels = rng.integers(0, CLASSES, PERIOD)
    logits = np.empty((ROWS, CLASSES), ml_dtypes.bfloat16)
    for first in range(0, ROWS, PERIOD):
        logits[first : first + PERIOD] = pool[: ROWS - first]
    assert logits.size > 2**31
    period = np.arange(ROWS) % PERIOD
    feeds = {"logits": logits, "labels": pool_labels[period]}
    if gradient:
        feeds["dloss"] = np.ones(ROWS, ml_dtypes.bfloat16)

    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss", {"reduction": "none"})
    model = onnxloss.export(config, logits=logits.shape, dtype="bfloat16", gradient=gradient)
    outputs = run_model(model, feeds, library=True, threads=2)
    loss, dlogits = reference.softmax_cross_entropy_loss(pool, pool_labels, reduction="none")
    found = outputs["loss"].astype(np.float64)
    np.testing.assert_allclose(found, loss[period], rtol=LOSS_BOUND)
    if not gradient:
        return
    first = outputs["dlogits"][:PERIOD]
    np.testing.assert_allclose(first.astype(np.float64), dlogits, rtol=LOSS_BOUND, atol=0)
    bits, pool_bits = outputs["dlogits"].view(np.uint16), first.view(np.uint16)
    wrong = [row for row in range(ROWS) if not np.array_equal(bits[row], pool_bits[row % PERIOD])]
    assert wrong == []
