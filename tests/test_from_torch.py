# SPDX-License-Identifier: MIT
"""from_torch: arguments as PyTorch reads them; what it refuses is refused, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxloss
from onnxloss import LossConfig, LossError
from tests.runtime import run_model

LOGITS = np.array([[1, 2, 3], [0.5, -1, 0.25]])


def from_torch(**settings: Any) -> LossConfig:
    return onnxloss.from_torch("torch.nn.functional.cross_entropy", **settings)


@pytest.mark.parametrize(
    ("settings", "reduction"),
    [
        ({"reduce": 0}, "none"),
        ({"reduce": np.False_, "size_average": False}, "none"),
        ({"size_average": 0}, "sum"),
        ({"size_average": np.False_, "reduce": 1}, "sum"),
        ({"size_average": None, "reduce": 1, "reduction": "sum"}, "mean"),
    ],
)
def test_deprecated_arguments_are_taken_for_their_truth(
    settings: dict[str, Any], reduction: str
) -> None:
    assert from_torch(**settings).attributes["reduction"] == reduction


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize("logits_dtype", ["float16", "float32", "float64"])
def test_weights_of_probabilities_may_be_integers(dtype: str, logits_dtype: str) -> None:
    weight = np.array([1, 0, 3], dtype)
    config = from_torch(target="probabilities", weight=weight)
    model = onnxloss.export(config, logits=(2, 3), dtype=logits_dtype)
    labels = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    feeds = {"logits": LOGITS.astype(logits_dtype), "labels": labels.astype(logits_dtype)}
    (loss,) = run_model(model, feeds).values()
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    assert loss.dtype == logits_dtype
    np.testing.assert_allclose(loss, -(weight * labels * log_p).sum() / 2, rtol=2e-3)


@pytest.mark.parametrize(
    "weight",
    ["1234", b"1234", {0: 1.0, 1: 2.0}, {1.0, 2.0}],
    ids=lambda weight: type(weight).__name__,
)
def test_what_is_no_sequence_of_numbers_is_no_weight(weight: Any) -> None:
    with pytest.raises(LossError, match=r"class_weights is .*; expected an array or numbers, one"):
        from_torch(weight=weight)


def test_an_ignore_index_that_stands_for_none_is_refused() -> None:
    smallest = -(2**63)
    with pytest.raises(
        LossError, match=f"from_torch: ignore_index is {smallest}; expected a great"
    ):
        from_torch(ignore_index=smallest)
    assert from_torch(ignore_index=smallest + 1).attributes["ignore_index"] == smallest + 1
    assert (
        "ignore_index" not in from_torch(ignore_index=smallest, target="probabilities").attributes
    )


@pytest.mark.parametrize(
    ("settings", "logits", "dtype", "reason"),
    [
        ({}, (2, 3), "int32", "PyTorch takes int64 and uint8 alone"),
        ({}, (3,), "int32", "PyTorch takes int64 and uint8 alone"),
        ({}, (2, 3, 4), "int32", "PyTorch takes int64 and uint8 alone"),
        ({}, (2, 3, 4), "uint8", r"PyTorch takes uint8 labels for logits \(N, C\) alone"),
        (
            {"weight": [1, 2, 3], "label_smoothing": 0.1},
            (2, 3),
            "uint8",
            "PyTorch takes none with weight and label_smoothing",
        ),
    ],
)
def test_labels_that_torch_refuses(
    settings: dict[str, Any], logits: tuple[int, ...], dtype: str, reason: str
) -> None:
    with pytest.raises(LossError, match=f'label_dtype is "{dtype}"; .*: {reason}; cast the labels'):
        onnxloss.export(from_torch(**settings), logits=logits, label_dtype=dtype)


@pytest.mark.parametrize("settings", [{}, {"weight": [1, 2, 3]}, {"label_smoothing": 0.1}])
def test_uint8_labels_are_taken_where_torch_takes_them(settings: dict[str, Any]) -> None:
    for logits in ((2, 3), (3,)):
        onnxloss.export(from_torch(**settings), logits=logits, label_dtype="uint8")
