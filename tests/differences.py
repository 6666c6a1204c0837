# SPDX-License-Identifier: MIT
"""What the frameworks answer to one question, and what the exported models answer.

`docs/differences.md` shows this table. `tests/test_differences.py` runs the exported models,
`tests/frameworks/test_*_differences.py` the frameworks themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INF, NAN = np.inf, np.nan
LOGITS = np.array([[1, 2, 3], [0.5, -1, 0.25]], np.float32)
INDICES = np.array([2, 0])
PROBABILITIES = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], np.float32)
ONE_HOT = np.array([[0, 0, 1], [1, 0, 0]], np.float32)
WEIGHTS = np.array([0.5, 2, 1], np.float32)
"""The inputs of every row that does not say otherwise."""

COLUMNS = {
    "torch": "PyTorch 2.13",
    "paddle": "Paddle 3.3",
    "tf": "TensorFlow 2.21, Keras 3.15",
    "onnx": "ai.onnx, ONNX Runtime 1.31",
}
TORCH = "torch.nn.functional.cross_entropy"
PADDLE = "paddle.nn.functional.cross_entropy"
V1 = "tf.compat.v1.losses.softmax_cross_entropy"
DENSE = "tf.nn.softmax_cross_entropy_with_logits"
SPARSE = "tf.nn.sparse_softmax_cross_entropy_with_logits"
CATEGORICAL = "keras.losses.CategoricalCrossentropy"
SPARSE_CATEGORICAL = "keras.losses.SparseCategoricalCrossentropy"
ONNX = "ai.onnx.SoftmaxCrossEntropyLoss"

Value = float | tuple[float, ...] | str
"""A number, several, or what is raised: "refused" is ours when exporting, "error" when running."""


@dataclass(frozen=True)
class Answer:
    """What one API gives, and what the model exported from it gives.

    Attributes:
        api: The API.
        labels: Its labels.
        theirs: What it gives: of a loss all, of `dlogits` the first row.
        ours: What the exported model gives; None for the same.
        logits: Its logits.
        settings: Its settings; class weights are `weight` or `weights`, as the API has it.
        sample_weights: One for each position.
        of: What is compared: "loss", "dlogits" or "shape", which is the loss's.
        note: What the page says before it, where one column has several answers.
    """

    api: str
    labels: np.ndarray
    theirs: Value
    ours: Value | None = None
    logits: np.ndarray = field(default_factory=lambda: LOGITS)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample_weights: np.ndarray | None = None
    of: str = "loss"
    note: str = ""

    @property
    def column(self) -> str:
        """The column of the table."""
        first = self.api.partition(".")[0]
        return {"keras": "tf", "ai": "onnx"}.get(first, first)

    @property
    def expected(self) -> Value:
        """What the exported model must give."""
        return self.theirs if self.ours is None else self.ours


@dataclass(frozen=True)
class Row:
    """A question: what it is about, the answers, and what follows for a user."""

    about: str
    answers: tuple[Answer, ...]
    advice: str


_NONE = {"reduction": "none"}
_DEFAULT_IGNORED = np.array([2, -100])
_ALL_IGNORED = np.array([-100, -100])
_EMPTY = {"logits": LOGITS[:0], "labels": INDICES[:0]}
_MASKED = {"logits": np.array([[1, 2, -INF]], np.float32)}
_GAP = {"logits": np.array([[1e4, 0, 0]], np.float32), "labels": np.array([1])}
_NAN_ROW = np.array([[NAN, NAN, NAN], [1, 2, 3]], np.float32)
_UNNORMALISED = 2 * PROBABILITIES
_FUSED, _TRUE = (-0.109969, -0.155272, -0.734759), (-0.0199388, 0.0894570, -0.0695180)
_ZEROS, _NANS = (0.0, 0.0, 0.0), (NAN, NAN, NAN)
_OVERFLOWING = np.array([[60000, 0]] * 4, np.float16)
_UNUSED = np.array([0, 2, 0], np.float32)
_LAST_UNUSED = np.array([1, 1, 0], np.float32)
_UNBATCHED = np.array(2)
_POSITION_WEIGHTS = np.array([0.3, 0.7], np.float32)
_TOLERANCES = {"float16": 1e-3, "float32": 5e-6, "float64": 1e-12}
"""By the logits' dtype: the table has six digits of a float32."""

COUNTS = (
    Row(
        "mean, a label is -100; nothing said of ignoring",
        (
            Answer(TORCH, _DEFAULT_IGNORED, 0.407606),
            Answer(PADDLE, _DEFAULT_IGNORED, 0.203803),
            Answer(
                SPARSE_CATEGORICAL,
                _DEFAULT_IGNORED,
                "InvalidArgumentError",
                "error",
                settings={"from_logits": True},
            ),
            Answer(ONNX, _DEFAULT_IGNORED, "Fail", "error"),
        ),
        "Paddle divides by all positions, the ignored ones too. For the mean of PyTorch in Paddle "
        "mark ignored labels with an `ignore_index` of 0 or more, as 255; or divide a sum.",
    ),
    Row(
        "mean, a label is the `ignore_index` -1",
        (
            Answer(TORCH, np.array([2, -1]), 0.407606, settings={"ignore_index": -1}),
            Answer(PADDLE, np.array([2, -1]), 0.203803, settings={"ignore_index": -1}),
            Answer(
                SPARSE_CATEGORICAL,
                np.array([2, -1]),
                0.407606,
                settings={"from_logits": True, "ignore_class": -1},
            ),
            Answer(ONNX, np.array([2, -1]), 0.407606, settings={"ignore_index": -1}),
        ),
        "Any negative `ignore_index` counts in Paddle. What Paddle 2.4 and 2.6 do is had with "
        "`paddle_version`.",
    ),
    Row(
        "mean, a label is the `ignore_index` 255",
        (
            Answer(TORCH, np.array([2, 255]), 0.407606, settings={"ignore_index": 255}),
            Answer(PADDLE, np.array([2, 255]), 0.407606, settings={"ignore_index": 255}),
            Answer(
                SPARSE_CATEGORICAL,
                np.array([2, 255]),
                0.407606,
                settings={"from_logits": True, "ignore_class": 255},
            ),
            Answer(ONNX, np.array([2, 255]), 0.407606, settings={"ignore_index": 255}),
        ),
        "The same everywhere.",
    ),
    Row(
        "mean, all labels ignored",
        (
            Answer(TORCH, _ALL_IGNORED, NAN),
            Answer(PADDLE, _ALL_IGNORED, 0.0),
            Answer(
                SPARSE_CATEGORICAL,
                _ALL_IGNORED,
                0.0,
                settings={"from_logits": True, "ignore_class": -100},
            ),
            Answer(ONNX, _ALL_IGNORED, NAN, settings={"ignore_index": -100}),
        ),
        "Leave such a batch out where a loss of nan would stop the training.",
    ),
    Row(
        "the same: gradient",
        (
            Answer(TORCH, _ALL_IGNORED, _ZEROS, of="dlogits"),
            Answer(PADDLE, _ALL_IGNORED, _ZEROS, of="dlogits"),
            Answer(
                SPARSE_CATEGORICAL,
                _ALL_IGNORED,
                _ZEROS,
                settings={"from_logits": True, "ignore_class": -100},
                of="dlogits",
            ),
        ),
        "Such a batch trains nothing.",
    ),
    Row(
        "mean, the labels' class weights are all 0",
        (
            Answer(TORCH, INDICES, NAN, settings={"weight": _UNUSED}),
            Answer(PADDLE, INDICES, 0.0, settings={"weight": _UNUSED}),
            Answer(V1, ONE_HOT, 0.0, sample_weights=np.zeros(2, np.float32)),
            Answer(ONNX, INDICES, NAN, settings={"weights": _UNUSED}),
        ),
        "TensorFlow and Keras have weights of positions only.",
    ),
    Row(
        "the same: gradient",
        (
            Answer(TORCH, INDICES, _NANS, of="dlogits", settings={"weight": _UNUSED}),
            Answer(PADDLE, INDICES, _ZEROS, of="dlogits", settings={"weight": _UNUSED}),
            Answer(V1, ONE_HOT, _ZEROS, of="dlogits", sample_weights=np.zeros(2, np.float32)),
        ),
        "In PyTorch such a batch makes the parameters nan. Give it an `ignore_index` instead.",
    ),
    Row(
        "mean of no positions",
        (
            Answer(TORCH, theirs=NAN, **_EMPTY),
            Answer(PADDLE, theirs=NAN, **_EMPTY),
            Answer(V1, ONE_HOT[:0], 0.0, logits=LOGITS[:0]),
            Answer(
                SPARSE_CATEGORICAL,
                theirs=(0.0,),
                of="shape",
                settings={"from_logits": True},
                **_EMPTY,
            ),
            Answer(ONNX, theirs="Fail", ours="refused", **_EMPTY),
        ),
        "Keras gives a loss of shape (0,), not a number. In Paddle's static graphs "
        '(`paddle_version="3.x-static"`) the mean with class weights is 0.',
    ),
)

WEIGHTED = (
    Row(
        "probabilities and class weights, unreduced",
        (
            Answer(
                TORCH, PROBABILITIES, (0.968747, 1.506612), settings={"weight": WEIGHTS, **_NONE}
            ),
            Answer(
                PADDLE,
                PROBABILITIES,
                (0.928747, 1.131612),
                settings={"weight": WEIGHTS, "soft_label": True, **_NONE},
            ),
        ),
        "PyTorch weighs each class's term: -sum w t log p. Paddle weighs the position by sum w t.",
    ),
    Row(
        "probabilities and class weights, mean",
        (
            Answer(TORCH, PROBABILITIES, 1.237679, settings={"weight": WEIGHTS}),
            Answer(
                PADDLE, PROBABILITIES, 0.958306, settings={"weight": WEIGHTS, "soft_label": True}
            ),
        ),
        "PyTorch divides by the number of positions, Paddle by the positions' weights.",
    ),
    Row(
        "indices and class weights, mean",
        (
            Answer(TORCH, INDICES, 0.503108, settings={"weight": WEIGHTS}),
            Answer(PADDLE, INDICES, 0.503108, settings={"weight": WEIGHTS}),
            Answer(ONNX, INDICES, 0.503108, settings={"weights": WEIGHTS}),
        ),
        "The same everywhere: by the weights of the labels that count.",
    ),
    Row(
        "the same labels as one-hot probabilities",
        (
            Answer(TORCH, ONE_HOT, 0.377331, settings={"weight": WEIGHTS}),
            Answer(PADDLE, ONE_HOT, 0.503108, settings={"weight": WEIGHTS, "soft_label": True}),
        ),
        "In PyTorch a one-hot target is not the same loss as its indices, once there are weights.",
    ),
    Row(
        "indices, class weights, smoothing 0.1, mean",
        (
            Answer(TORCH, INDICES, 0.677375, settings={"weight": WEIGHTS, "label_smoothing": 0.1}),
            Answer(PADDLE, INDICES, 0.595233, settings={"weight": WEIGHTS, "label_smoothing": 0.1}),
        ),
        "As with probabilities; PyTorch divides by the weights of the labels, without smoothing.",
    ),
    Row(
        "weights of positions (0.3, 0.7), mean",
        (
            Answer(V1, ONE_HOT, 0.30408, sample_weights=_POSITION_WEIGHTS),
            Answer(
                CATEGORICAL,
                ONE_HOT,
                0.30408,
                settings={"from_logits": True},
                sample_weights=_POSITION_WEIGHTS,
            ),
            Answer(
                CATEGORICAL,
                ONE_HOT,
                0.60816,
                settings={"from_logits": True, "reduction": "mean_with_sample_weight"},
                sample_weights=_POSITION_WEIGHTS,
                note="`mean_with_sample_weight`",
            ),
        ),
        "`tf.compat.v1` divides by the number of weights that are not 0, Keras by the number of "
        "positions, or with `mean_with_sample_weight` by the weights. The others have no such "
        "weights: a `LossConfig` of our own has.",
    ),
)

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
            Answer(TORCH, _DEFAULT_IGNORED, 0.507606, settings={"label_smoothing": 0.1}),
            Answer(
                PADDLE, _DEFAULT_IGNORED, "ValueError", "error", settings={"label_smoothing": 0.1}
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
            Answer(TORCH, PROBABILITIES, (2,), of="shape", settings=_NONE),
            Answer(
                PADDLE, PROBABILITIES, (2, 1), of="shape", settings={"soft_label": True, **_NONE}
            ),
            Answer(DENSE, PROBABILITIES, (2,), of="shape"),
        ),
        "Paddle keeps the class axis, with smoothed indices too.",
    ),
    Row(
        "labels of shape (N, 1), unreduced: the loss's shape",
        (
            Answer(TORCH, INDICES[:, None], "RuntimeError", "refused", of="shape", settings=_NONE),
            Answer(PADDLE, INDICES[:, None], (2, 1), of="shape", settings=_NONE),
            Answer(
                SPARSE_CATEGORICAL,
                INDICES[:, None],
                (2,),
                of="shape",
                settings={"from_logits": True, "reduction": "none"},
            ),
            Answer(ONNX, INDICES[:, None], "Fail", "refused", of="shape", settings=_NONE),
        ),
        "Drop the axis for PyTorch and ai.onnx.",
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
            Answer(TORCH, np.array([-100, 2]), _NANS, _ZEROS, _NAN_ROW, of="dlogits"),
            Answer(PADDLE, np.array([-100, 2]), _ZEROS, logits=_NAN_ROW, of="dlogits"),
            Answer(
                SPARSE_CATEGORICAL,
                np.array([-100, 2]),
                _ZEROS,
                logits=_NAN_ROW,
                settings={"from_logits": True, "ignore_class": -100},
                of="dlogits",
            ),
        ),
        "An ignored row's logits do not matter in ours. Weights of 0 do not ignore: the row is "
        "nan, as in TensorFlow and Keras.",
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
        "In ours a weight of 0 takes an infinite loss away. A row of nan stays nan in all.",
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

SECTIONS: Mapping[str, tuple[Row, ...]] = {
    "Which positions count": COUNTS,
    "Weights": WEIGHTED,
    "Label smoothing": SMOOTHED,
    "Labels, shapes, reductions": LABELS,
    "Extreme values": EXTREMES,
    "Probabilities for logits": INPUTS,
    "Number types": DTYPES,
}


@dataclass(frozen=True)
class Recorded:
    """Where a case of tests/golden shows an artefact, and our number there.

    Attributes:
        id: The case's.
        of: The output, "loss" or "dlogits".
        at: The position in it.
        ours: Our number.
    """

    id: str
    of: str
    at: tuple[int, ...]
    ours: float


RECORDED = (
    Recorded("torch-058", "dlogits", (1, 0), 0.0),
    Recorded("torch-060", "loss", (0,), 0.0),
    Recorded("torch-090", "loss", (0,), 0.813262),
    Recorded("paddle-055", "loss", (0,), INF),
    Recorded("paddle-081", "dlogits", (0, 0), -0.380605),
    Recorded("paddle-082", "dlogits", (0, 0), -0.864954),
    Recorded("paddle-084", "dlogits", (0, 0), -1.581248),
    Recorded("paddle-125", "loss", (), 0.5508),
    Recorded("tf-086", "dlogits", (0, 0, 0), 0.313861),
    Recorded("tf-094", "loss", (), 1.313262),
)
ANSWERS = tuple(answer for rows in SECTIONS.values() for row in rows for answer in row.answers)


def of_outputs(answer: Answer, loss: np.ndarray, dlogits: np.ndarray | None) -> Value:
    """The part of the outputs that the table has."""
    if answer.of == "shape":
        return tuple(map(float, loss.shape))
    values = loss if answer.of == "loss" else np.asarray(dlogits)[0]
    return float(values) if values.ndim == 0 else tuple(values.astype(np.float64).ravel().tolist())


def assert_same(value: Value, expected: Value, answer: Answer) -> None:
    """Asserts as many digits as the table has."""
    if isinstance(value, str) or isinstance(expected, str):
        assert value == expected
        return
    assert np.shape(value) == np.shape(expected)
    tolerance = _TOLERANCES[answer.logits.dtype.name]
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * 1e-3)
