# SPDX-License-Identifier: MIT
"""Models with two differently configured losses of one operator, and what they must answer.

A runtime that takes one function body for both nodes gives a wrong number without an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

import onnxloss
from tests import reference
from tests.cases import HARD, OPS, SOFT

ROWS, FEATURES, CLASSES = 6, 3, 5


@dataclass(frozen=True)
class Pair:
    """Two configurations of one loss behind one forward model."""

    name: str
    loss: str
    settings: tuple[dict[str, Any], dict[str, Any]]
    weights: tuple[bool, bool] = (False, False)


PAIRS = (
    Pair("reductions", HARD, ({"reduction": "sum"}, {"reduction": "none"})),
    Pair("smoothing", HARD, ({"label_smoothing": 0.1}, {"label_smoothing": 0.0})),
    Pair("ignore_index", HARD, ({"ignore_index": 1}, {"ignore_index": 2})),
    # A body with class weights has another signature than one without.
    Pair("weights", HARD, ({"reduction": "mean"}, {"reduction": "sum"}), (True, False)),
    Pair("both_weighted", HARD, ({"reduction": "mean"}, {"label_smoothing": 0.2}), (True, True)),
    Pair("the_same", HARD, ({"reduction": "sum"}, {"reduction": "sum"})),
    Pair("soft", SOFT, ({"label_smoothing": 0.3}, {"reduction": "none"}), (False, True)),
)


def class_weights(turn: int) -> np.ndarray:
    """Other weights for each of the two."""
    return np.linspace(0.5 + turn, 2.0, CLASSES, dtype=np.float32)


def forward_model() -> onnx.ModelProto:
    """The logits are features @ matrix."""
    matrix = np.random.default_rng(5).standard_normal((FEATURES, CLASSES)).astype(np.float32)
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "matrix"], ["logits"], "MatMul")],
        "forward",
        [helper.make_tensor_value_info("features", floats, ("N", FEATURES))],
        [helper.make_tensor_value_info("logits", floats, ("N", CLASSES))],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9, producer_name="tests"
    )


def model_of(pair: Pair, *, inline: bool = False) -> onnx.ModelProto:
    """The forward model with both losses, their gradients, and one input of labels."""
    model = forward_model()
    for turn, settings in enumerate(pair.settings):
        weights = class_weights(turn) if pair.weights[turn] else None
        model = onnxloss.append_to(
            model,
            onnxloss.LossConfig(OPS[pair.loss], settings, class_weights=weights),
            logits="logits",
            gradient=True,
            loss=f"loss_{turn}",
            dloss=f"dloss_{turn}",
            dlogits=f"dlogits_{turn}",
            inline=inline,
        )
    return model


def feeds_of(pair: Pair) -> dict[str, np.ndarray]:
    """Inputs of the model."""
    rng = np.random.default_rng(11)
    labels = (
        np.array([0, 1, 2, 3, 4, 1])
        if pair.loss == HARD
        else rng.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    )
    features = rng.standard_normal((ROWS, FEATURES)).astype(np.float32)
    feeds = {"features": features, "labels": labels}
    for turn, settings in enumerate(pair.settings):
        shape = (ROWS,) if settings.get("reduction") == "none" else ()
        feeds[f"dloss_{turn}"] = np.full(shape, 1.5 - turn, np.float32)
    return feeds


def truth_of(pair: Pair) -> dict[str, np.ndarray]:
    """What both losses and gradients must be."""
    feeds = feeds_of(pair)
    matrix = onnx.numpy_helper.to_array(forward_model().graph.initializer[0])
    logits = feeds["features"].astype(np.float64) @ matrix.astype(np.float64)
    truth = {}
    for turn, settings in enumerate(pair.settings):
        truth[f"loss_{turn}"], truth[f"dlogits_{turn}"] = getattr(reference, pair.loss)(
            logits,
            feeds["labels"],
            feeds[f"dloss_{turn}"],
            class_weights(turn) if pair.weights[turn] else None,
            **settings,
        )
    return truth
