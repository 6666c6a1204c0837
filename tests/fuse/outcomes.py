# SPDX-License-Identifier: MIT
"""What becomes of each recorded model: the operator with its reduction, or why it is left alone."""

from __future__ import annotations

HARD = "SoftmaxCrossEntropyLoss"
SOFT = "SoftLabelCrossEntropyLoss"

_TORCH = {
    "cross_entropy": (HARD, "mean"),
    "cross_entropy_weighted": (HARD, "sum"),
    "cross_entropy_kdim": (HARD, "none"),
    "cross_entropy_language_model": (HARD, "mean"),
    "cross_entropy_masked": (HARD, "none"),
    "nll": (HARD, "mean"),
    "nll_weighted": (HARD, "mean"),
    "nll_3d": (HARD, "none"),
    "nll_3d_static": (HARD, "none"),
    "nll_4d": (HARD, "none"),
    "gather": (HARD, "mean"),
    "gather_tokens": (HARD, "none"),
    "index": (HARD, "mean"),
    "index_static": (HARD, "mean"),
    "one_hot": (HARD, "mean"),
    "lse": (HARD, "mean"),
    "log_of_softmax": (SOFT, "mean"),
    "probabilities": (SOFT, "mean"),
    "float16": (HARD, "mean"),
}
_TF = {
    "dense": (SOFT, "none"),
    "dense_mean": (SOFT, "mean"),
    "dense_one_hot": (HARD, "mean"),
    "dense_tokens": (SOFT, "none"),
    "sparse": (HARD, "none"),
    "sparse_mean": (HARD, "mean"),
    "sparse_tokens": (HARD, "none"),
    "v1_dense": (SOFT, "mean"),
    "v1_dense_smoothed": (SOFT, "mean"),
    "v1_sparse": (HARD, "mean"),
    "keras_dense": (SOFT, "mean"),
    "keras_dense_smoothed": (SOFT, "mean"),
    "keras_sparse": (HARD, "mean"),
    # Their means stay as they are: of losses reshaped by sizes that only the run shows, and over
    # what is not ignored.
    "keras_sparse_tokens": (HARD, "none"),
    "keras_sparse_ignoring": (HARD, "none"),
    "keras_probabilities": (SOFT, "mean"),
    "keras_probabilities_smoothed": (SOFT, "mean"),
    "keras_probabilities_one_hot": (HARD, "none"),
    "keras_sparse_probabilities": (HARD, "mean"),
    "keras_sparse_probabilities_tokens": (HARD, "none"),
    "gather": (HARD, "mean"),
    "one_hot": (HARD, "mean"),
}
_PADDLE = {
    "none": (HARD, "none"),
    "none_flat": (HARD, "none"),
    "none_kdim": (HARD, "none"),
    "sum": (HARD, "sum"),
    "sum_tokens": (HARD, "sum"),
    "mean": (HARD, "mean"),
    # Paddle's denominators stay as they are.
    "mean_ignoring": (HARD, "sum"),
    "mean_weighted": (HARD, "none"),
    "soft": (SOFT, "none"),
    "soft_sum": (SOFT, "sum"),
    "softmax_with_cross_entropy": (HARD, "none"),
    "softmax_with_cross_entropy_soft": (SOFT, "none"),
    "gather": (HARD, "sum"),
    "one_hot": (HARD, "sum"),
}
_ORT_TRAINING = {
    "mean_eval": (HARD, "mean"),
    "mean_training": (f"{HARD}AndGrad", "mean"),
    "weighted_sum_eval": (HARD, "sum"),
    "weighted_sum_training": (f"{HARD}AndGrad", "sum"),
}

FUSED: dict[str, tuple[str, str]] = {
    f"{exporter}-{name}": outcome
    for exporter, outcomes in (
        ("torch_dynamo", _TORCH),
        ("torch_script", _TORCH),
        ("tf2onnx", _TF),
        ("paddle2onnx", _PADDLE),
        ("ort_training", _ORT_TRAINING),
    )
    for name, outcome in outcomes.items()
}

LEFT: dict[str, str] = {
    # torch.onnx writes an operator of integer labels for them, which no runtime takes.
    "torch_dynamo-cross_entropy_probabilities": 'the labels "y" are not integers',
    "torch_script-cross_entropy_probabilities": 'the labels "y" are not integers',
    "torch_dynamo-log_p_too": "it feeds GatherElements and an output of the model, and has to be",
    "torch_script-log_p_too": "it feeds GatherElements and an output of the model, and has to be",
    "paddle2onnx-softmax_too": "its output log_prob feeds Exp",
}
