# SPDX-License-Identifier: MIT
"""Questions on which positions count, and with what weight."""

from __future__ import annotations

import numpy as np

from tests.differences.answers import (
    CATEGORICAL,
    DEFAULT_IGNORED,
    INDICES,
    LOGITS,
    NAN,
    NANS,
    NONE,
    ONE_HOT,
    ONNX,
    PADDLE,
    PROBABILITIES,
    SPARSE_CATEGORICAL,
    TORCH,
    V1,
    WEIGHTS,
    ZEROS,
    Answer,
    Row,
)

_ALL_IGNORED = np.array([-100, -100])
_EMPTY = {"logits": LOGITS[:0], "labels": INDICES[:0]}
_UNUSED = np.array([0, 2, 0], np.float32)
_POSITION_WEIGHTS = np.array([0.3, 0.7], np.float32)

COUNTS = (
    Row(
        "mean, a label is -100; nothing said of ignoring",
        (
            Answer(TORCH, DEFAULT_IGNORED, 0.407606),
            Answer(PADDLE, DEFAULT_IGNORED, 0.203803),
            Answer(
                SPARSE_CATEGORICAL,
                DEFAULT_IGNORED,
                "InvalidArgumentError",
                "error",
                settings={"from_logits": True},
            ),
            Answer(ONNX, DEFAULT_IGNORED, "Fail", "error"),
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
            Answer(TORCH, _ALL_IGNORED, ZEROS, of="dlogits"),
            Answer(PADDLE, _ALL_IGNORED, ZEROS, of="dlogits"),
            Answer(
                SPARSE_CATEGORICAL,
                _ALL_IGNORED,
                ZEROS,
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
            Answer(TORCH, INDICES, NANS, of="dlogits", settings={"weight": _UNUSED}),
            Answer(PADDLE, INDICES, ZEROS, of="dlogits", settings={"weight": _UNUSED}),
            Answer(V1, ONE_HOT, ZEROS, of="dlogits", sample_weights=np.zeros(2, np.float32)),
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
                TORCH,
                PROBABILITIES,
                (0.968747, 1.506612),
                settings={"weight": WEIGHTS, **NONE},
            ),
            Answer(
                PADDLE,
                PROBABILITIES,
                (0.928747, 1.131612),
                settings={"weight": WEIGHTS, "soft_label": True, **NONE},
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
