# SPDX-License-Identifier: MIT
"""Questions on values: infinite, nan, clipped, and of other number types."""

from __future__ import annotations

import numpy as np

from tests.differences.answers import (
    CATEGORICAL,
    DENSE,
    INDICES,
    INF,
    LOGITS,
    NAN,
    NANS,
    ONE_HOT,
    ONNX,
    PADDLE,
    PROBABILITIES,
    SPARSE,
    SPARSE_CATEGORICAL,
    TORCH,
    V1,
    ZEROS,
    Answer,
    Row,
)

_MASKED = {"logits": np.array([[1, 2, -INF]], np.float32)}
_GAP = {"logits": np.array([[1e4, 0, 0]], np.float32), "labels": np.array([1])}
_NAN_ROW = np.array([[NAN, NAN, NAN], [1, 2, 3]], np.float32)
_UNNORMALISED = 2 * PROBABILITIES
_FUSED, _TRUE = (-0.109969, -0.155272, -0.734759), (-0.0199388, 0.0894570, -0.0695180)
_OVERFLOWING = np.array([[60000, 0]] * 4, np.float16)
_LAST_UNUSED = np.array([1, 1, 0], np.float32)

EXTREMES = (
    Row(
        "logits (1, 2, -inf), label 0: the loss",
        (
            Answer(TORCH, np.array([0]), 1.313262, **_MASKED),
            Answer(PADDLE, np.array([0]), 1.313262, **_MASKED),
            Answer(SPARSE, np.array([0]), (1.313262,), **_MASKED),
            Answer(ONNX, np.array([0]), 1.313262, **_MASKED),
        ),
        "Masking a class that is no label is fine everywhere.",
    ),
    Row(
        "the same as probabilities (1, 0, 0)",
        (
            Answer(TORCH, ONE_HOT[1:], NAN, 1.313262, **_MASKED),
            Answer(PADDLE, ONE_HOT[1:], 1.313262, settings={"soft_label": True}, **_MASKED),
            Answer(DENSE, ONE_HOT[1:], (NAN,), (1.313262,), **_MASKED),
        ),
        "A class of probability 0 contributes nothing in ours, masked or not.",
    ),
    Row(
        "the same: gradient",
        (
            Answer(TORCH, np.array([0]), (-0.731059, 0.731059, 0), of="dlogits", **_MASKED),
            Answer(
                PADDLE,
                np.array([0]),
                (-0.731059, 0.731059, 1.17e-28),
                (-0.731059, 0.731059, 0),
                of="dlogits",
                **_MASKED,
            ),
            Answer(SPARSE, np.array([0]), (-0.731059, 0.731059, 0), of="dlogits", **_MASKED),
        ),
        "A masked class has no gradient.",
    ),
    Row(
        "logits (1, 2, -inf), label 2",
        (
            Answer(TORCH, np.array([2]), INF, **_MASKED),
            Answer(PADDLE, np.array([2]), 64.3133, INF, **_MASKED),
            Answer(SPARSE, np.array([2]), (INF,), **_MASKED),
            Answer(ONNX, np.array([2]), INF, **_MASKED),
        ),
        "The gradient is finite.",
    ),
    Row(
        "logits (10000, 0, 0), label 1",
        (
            Answer(TORCH, theirs=1e4, **_GAP),
            Answer(PADDLE, theirs=64.0, ours=1e4, **_GAP),
            Answer(SPARSE, theirs=(1e4,), **_GAP),
            Answer(ONNX, theirs=1e4, **_GAP),
        ),
        "Paddle's CPU kernel clips logits at 64 below the largest, in float64 too: where it does, "
        "its loss says little.",
    ),
    Row(
        "an ignored row of nan: its gradient",
        (
            Answer(TORCH, np.array([-100, 2]), NANS, ZEROS, _NAN_ROW, of="dlogits"),
            Answer(PADDLE, np.array([-100, 2]), ZEROS, logits=_NAN_ROW, of="dlogits"),
            Answer(
                SPARSE_CATEGORICAL,
                np.array([-100, 2]),
                ZEROS,
                logits=_NAN_ROW,
                settings={"from_logits": True, "ignore_class": -100},
                of="dlogits",
            ),
        ),
        "An ignored row's logits do not matter in ours. Weights of 0 do not ignore: the row is "
        "nan, as in TensorFlow and Keras.",
    ),
    Row(
        "an ignored row with a sample weight of nan, mean",
        (
            Answer(
                SPARSE_CATEGORICAL,
                np.array([2, -1]),
                NAN,
                0.407606,
                settings={"from_logits": True, "ignore_class": -1},
                sample_weights=np.array([1, NAN], np.float32),
            ),
        ),
        "An ignored row's weight does not matter in ours.",
    ),
    Row(
        "an ignored row with a sample weight of inf, `mean_with_sample_weight`: gradient",
        (
            Answer(
                SPARSE_CATEGORICAL,
                np.array([2, -1]),
                NANS,
                (0.0900306, 0.244728, -0.334759),
                settings={
                    "from_logits": True,
                    "ignore_class": -1,
                    "reduction": "mean_with_sample_weight",
                },
                sample_weights=np.array([1, INF], np.float32),
                of="dlogits",
            ),
        ),
        "In Keras such a weight makes the gradient of the other rows nan.",
    ),
    Row(
        "logits (1, 2, -inf), label 2 of weight 0, sum",
        (
            Answer(
                TORCH,
                np.array([2]),
                NAN,
                0.0,
                settings={"weight": _LAST_UNUSED, "reduction": "sum"},
                **_MASKED,
            ),
            Answer(
                PADDLE,
                np.array([2]),
                0.0,
                settings={"weight": _LAST_UNUSED, "reduction": "sum"},
                **_MASKED,
            ),
            Answer(
                V1,
                ONE_HOT[:1],
                NAN,
                0.0,
                settings={"reduction": "weighted_sum"},
                sample_weights=np.zeros(1, np.float32),
                **_MASKED,
            ),
            Answer(
                ONNX,
                np.array([2]),
                NAN,
                0.0,
                settings={"weights": _LAST_UNUSED, "reduction": "sum"},
                **_MASKED,
            ),
        ),
        "In ours a weight of 0 takes an infinite loss away, but not one of nan.",
    ),
    Row(
        "probabilities twice as large, sum: gradient",
        (
            Answer(TORCH, _UNNORMALISED, _TRUE, of="dlogits", settings={"reduction": "sum"}),
            Answer(
                PADDLE,
                _UNNORMALISED,
                _FUSED,
                _TRUE,
                of="dlogits",
                settings={"reduction": "sum", "soft_label": True},
            ),
            Answer(DENSE, _UNNORMALISED, _FUSED, _TRUE, of="dlogits"),
            Answer(
                CATEGORICAL,
                _UNNORMALISED,
                _FUSED,
                _TRUE,
                of="dlogits",
                settings={"from_logits": True, "reduction": "sum"},
            ),
        ),
        "Paddle and TensorFlow give p - t, right only for probabilities that add up to 1. Ours is "
        "the derivative of the loss, p sum(t) - t.",
    ),
)

INPUTS = (
    Row(
        "`use_softmax=False`, a probability of 0 at the label, mean of two",
        (
            Answer(
                PADDLE,
                np.array([0, 2]),
                5e19,
                INF,
                logits=np.array([[0, 0.5, 0.5], [0.2, 0.2, 0.6]], np.float32),
                settings={"use_softmax": False},
            ),
        ),
        "Paddle clips the logarithm to 1e20.",
    ),
    Row(
        "`from_logits=False`, a probability of 0 at the label",
        (
            Answer(
                CATEGORICAL,
                np.array([[1, 0, 0]], np.float32),
                16.118095,
                logits=np.array([[0, 0.5, 0.5]], np.float32),
            ),
            Answer(
                SPARSE_CATEGORICAL,
                np.array([0]),
                16.118095,
                logits=np.array([[0, 0.5, 0.5]], np.float32),
            ),
        ),
        "Keras clips probabilities to 1e-7, ours too; what is clipped has no gradient.",
    ),
)

DTYPES = (
    Row(
        "float16 logits, on the CPU",
        (
            Answer(TORCH, INDICES, 0.5508, logits=LOGITS.astype(np.float16)),
            Answer(PADDLE, INDICES, "RuntimeError", 0.5508, logits=LOGITS.astype(np.float16)),
            Answer(V1, ONE_HOT.astype(np.float16), 0.5508, logits=LOGITS.astype(np.float16)),
            Answer(ONNX, INDICES, 0.5508, logits=LOGITS.astype(np.float16)),
        ),
        "Paddle has float16 kernels for GPUs alone.",
    ),
    Row(
        "float16 logits (60000, 0) four times, label 1, mean",
        (
            Answer(TORCH, np.ones(4, np.int64), INF, 60000.0, logits=_OVERFLOWING),
            Answer(V1, np.array([[0, 1]] * 4, np.float16), 60000.0, logits=_OVERFLOWING),
            Answer(ONNX, np.ones(4, np.int64), 60000.0, logits=_OVERFLOWING),
        ),
        "PyTorch adds up in float16, ours in float32 or wider: a mean is inf where it is itself, "
        "not where the sum is.",
    ),
    Row(
        "float64 logits, mean",
        (
            Answer(TORCH, INDICES, 0.5508590754231472, logits=LOGITS.astype(np.float64)),
            Answer(PADDLE, INDICES, 0.5508590754231472, logits=LOGITS.astype(np.float64)),
            Answer(
                V1,
                ONE_HOT.astype(np.float64),
                0.5508590936660767,
                0.5508590754231472,
                logits=LOGITS.astype(np.float64),
            ),
            Answer(
                CATEGORICAL,
                ONE_HOT.astype(np.float64),
                0.5508590936660767,
                0.5508590754231472,
                logits=LOGITS.astype(np.float64),
                settings={"from_logits": True},
            ),
            Answer(ONNX, INDICES, 0.5508590754231472, logits=LOGITS.astype(np.float64)),
        ),
        "TensorFlow and Keras compute float64 losses in float32. Ours are float64.",
    ),
    Row(
        "float64 logits, smoothing 0.1, mean",
        (
            Answer(
                TORCH,
                INDICES,
                0.6300257420898138,
                logits=LOGITS.astype(np.float64),
                settings={"label_smoothing": 0.1},
            ),
            Answer(
                PADDLE,
                INDICES,
                0.6300257503228974,
                0.6300257420898138,
                logits=LOGITS.astype(np.float64),
                settings={"label_smoothing": 0.1},
            ),
        ),
        "Paddle holds the factor as float32.",
    ),
)
