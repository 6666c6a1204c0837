# SPDX-License-Identifier: MIT
"""Questions on labels: smoothing, shapes, values that are refused."""

from __future__ import annotations

import numpy as np

from tests.differences.answers import (
    CATEGORICAL,
    DEFAULT_IGNORED,
    DENSE,
    INDICES,
    LOGITS,
    NONE,
    ONE_HOT,
    ONNX,
    PADDLE,
    PROBABILITIES,
    SPARSE,
    SPARSE_CATEGORICAL,
    TORCH,
    V1,
    Answer,
    Row,
)

_UNBATCHED = np.array(2)
_NEG_LOG_P = (2.407606, 1.407606, 0.407606)

SMOOTHED = (
    Row(
        "smoothing 0.1, mean",
        (
            Answer(TORCH, INDICES, 0.630026, settings={"label_smoothing": 0.1}),
            Answer(PADDLE, INDICES, 0.630026, settings={"label_smoothing": 0.1}),
            Answer(V1, ONE_HOT, 0.630026, settings={"label_smoothing": 0.1}),
        ),
        "The same everywhere.",
    ),
    Row(
        "smoothing 0.1, a label is the `ignore_index` 0, mean",
        (
            Answer(TORCH, INDICES, 0.507606, settings={"label_smoothing": 0.1, "ignore_index": 0}),
            Answer(
                PADDLE,
                INDICES,
                0.210009,
                "refused",
                settings={"label_smoothing": 0.1, "ignore_index": 0},
            ),
        ),
        "Paddle ignores nothing and divides by positions times classes. Smooth the labels "
        "yourself, and leave rows out.",
    ),
    Row(
        "smoothing 0.1, a label is -100",
        (
            Answer(TORCH, DEFAULT_IGNORED, 0.507606, settings={"label_smoothing": 0.1}),
            Answer(
                PADDLE, DEFAULT_IGNORED, "ValueError", "error", settings={"label_smoothing": 0.1}
            ),
        ),
        "With smoothing Paddle takes no label out of range.",
    ),
    Row(
        "smoothing -0.1",
        (
            Answer(TORCH, INDICES, 0.550859, settings={"label_smoothing": -0.1}),
            Answer(PADDLE, INDICES, 0.550859, settings={"label_smoothing": -0.1}),
            Answer(V1, ONE_HOT, 0.550859, settings={"label_smoothing": -0.1}),
            Answer(
                CATEGORICAL,
                ONE_HOT,
                0.471692,
                settings={"from_logits": True, "label_smoothing": -0.1},
            ),
        ),
        "Keras smooths, the others do not. `from_torch` and `from_paddle` warn.",
    ),
    Row(
        "smoothing 1.5",
        (
            Answer(TORCH, INDICES, "RuntimeError", "refused", settings={"label_smoothing": 1.5}),
            Answer(PADDLE, INDICES, "ValueError", "refused", settings={"label_smoothing": 1.5}),
            Answer(V1, ONE_HOT, 1.738359, settings={"label_smoothing": 1.5}),
            Answer(
                CATEGORICAL,
                ONE_HOT,
                1.738359,
                settings={"from_logits": True, "label_smoothing": 1.5},
            ),
        ),
        "TensorFlow and Keras compute with it.",
    ),
)

LABELS = (
    Row(
        "probabilities, unreduced: the loss's shape",
        (
            Answer(TORCH, PROBABILITIES, (2,), of="shape", settings=NONE),
            Answer(
                PADDLE,
                PROBABILITIES,
                (2, 1),
                of="shape",
                settings={"soft_label": True, **NONE},
            ),
            Answer(DENSE, PROBABILITIES, (2,), of="shape"),
        ),
        "Paddle keeps the class axis, with smoothed indices too.",
    ),
    Row(
        "labels of shape (N, 1), unreduced: the loss's shape",
        (
            Answer(TORCH, INDICES[:, None], "RuntimeError", "refused", of="shape", settings=NONE),
            Answer(PADDLE, INDICES[:, None], (2, 1), of="shape", settings=NONE),
            Answer(
                SPARSE_CATEGORICAL,
                INDICES[:, None],
                (2,),
                of="shape",
                settings={"from_logits": True, "reduction": "none"},
            ),
            Answer(ONNX, INDICES[:, None], "Fail", "refused", of="shape", settings=NONE),
        ),
        "Drop the axis for PyTorch and ai.onnx.",
    ),
    Row(
        "probabilities, sum: the gradient by them",
        (
            Answer(TORCH, PROBABILITIES, _NEG_LOG_P, of="dlabels", settings={"reduction": "sum"}),
            Answer(
                PADDLE,
                PROBABILITIES,
                "none",
                "refused",
                of="dlabels",
                settings={"soft_label": True, "reduction": "sum"},
            ),
            Answer(DENSE, PROBABILITIES, _NEG_LOG_P, of="dlabels"),
            Answer(V1, PROBABILITIES, "none", "refused", of="dlabels"),
        ),
        "The output `dlabels` of `export`. `tf.compat.v1` stops it, Paddle has none.",
    ),
    Row(
        "unbatched: logits (C,), a label of shape ()",
        (
            Answer(TORCH, _UNBATCHED, 0.407606, logits=LOGITS[0]),
            Answer(PADDLE, _UNBATCHED, 0.407606, logits=LOGITS[0]),
            Answer(SPARSE, _UNBATCHED, 0.407606, logits=LOGITS[0]),
            Answer(ONNX, _UNBATCHED, "Fail", "refused", logits=LOGITS[0]),
        ),
        "The same, but for ai.onnx.",
    ),
    Row(
        "a label of C",
        (
            Answer(TORCH, np.array([2, 3]), "IndexError", "error"),
            Answer(PADDLE, np.array([2, 3]), "IndexError", "error"),
            Answer(SPARSE, np.array([2, 3]), "InvalidArgumentError", "error"),
            Answer(ONNX, np.array([2, 3]), "Fail", "error"),
        ),
        "An error everywhere; with XLA TensorFlow gives nan. Paddle reads labels as int32: "
        "2**32 + 2 is its class 2. Ours is an error.",
    ),
    Row(
        "a label of -1, not ignored",
        (
            Answer(TORCH, np.array([2, -1]), "IndexError", "error"),
            Answer(PADDLE, np.array([2, -1]), "IndexError", "error"),
            Answer(SPARSE, np.array([2, -1]), "InvalidArgumentError", "error"),
            Answer(ONNX, np.array([2, -1]), 0.675859, "error"),
        ),
        "ONNX Runtime counts it from the end, and says nothing.",
    ),
    Row(
        "probabilities with `ignore_index` 0, mean",
        (
            Answer(TORCH, PROBABILITIES, "RuntimeError", "refused", settings={"ignore_index": 0}),
            Answer(
                PADDLE,
                PROBABILITIES,
                0.323203,
                "refused",
                settings={"soft_label": True, "ignore_index": 0},
            ),
        ),
        "Paddle divides by the elements that are not 0. Probabilities of 0 throughout a row leave "
        "it out of a sum.",
    ),
    Row(
        'a reduction that is none: "avg"',
        (
            Answer(TORCH, INDICES, "ValueError", "refused", settings={"reduction": "avg"}),
            Answer(PADDLE, INDICES, "ValueError", "refused", settings={"reduction": "avg"}),
            Answer(V1, ONE_HOT, "ValueError", "refused", settings={"reduction": "avg"}),
            Answer(ONNX, INDICES, 1.101718, "refused", settings={"reduction": "avg"}),
        ),
        "ONNX Runtime takes what it does not know for a sum.",
    ),
)
