# SPDX-License-Identifier: MIT
"""onnxloss.tf.export: TensorFlow and Keras models with their loss behind them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")

import keras  # noqa: E402

import onnxloss  # noqa: E402
import onnxloss.tf  # noqa: E402
from tests.runtime import run_model  # noqa: E402

RNG = np.random.default_rng(2)
ROWS = RNG.standard_normal((5, 4)).astype(np.float32)
INDEX = RNG.integers(0, 3, 5)
WEIGHTS = RNG.uniform(0.5, 2, 5).astype(np.float32)


def classifier(activation: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(3, activation=activation),
        ]
    )


def gradient_of(
    loss: Any, labels: np.ndarray, logits: tf.Tensor, weights: np.ndarray | None, softmax: bool
) -> tuple[np.ndarray, np.ndarray]:
    with tf.GradientTape() as tape:
        tape.watch(logits)
        given = keras.activations.softmax(logits) if softmax else logits
        value = loss(labels, given, sample_weight=weights)
    return value.numpy(), tape.gradient(value, logits).numpy()


KERAS_LOSSES = {
    "categorical": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    "probabilities": keras.losses.CategoricalCrossentropy(),
    "sparse": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1),
    "sparse probabilities": keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
}


@pytest.mark.parametrize("name", KERAS_LOSSES)
@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("inline", (False, True))
def test_a_keras_model(name: str, weighted: bool, inline: bool) -> None:
    loss = KERAS_LOSSES[name]
    model = classifier("softmax" if "probabilities" in name else None)
    count = len(model.outputs)
    labels = INDEX if name.startswith("sparse") else np.eye(3, dtype=np.float32)[INDEX]
    exported = onnxloss.tf.export(
        model,
        loss,
        sample_weights="weights" if weighted else None,
        gradient=True,
        inline=inline,
    )
    inputs = [value.name for value in exported.graph.input]
    feeds = {inputs[0]: ROWS, "labels": labels, "dloss": np.ones((), np.float32)}
    feeds |= {"weights": WEIGHTS} if weighted else {}
    outputs = run_model(exported, feeds)
    softmax = "probabilities" in name
    expected = gradient_of(loss, labels, classifier()(ROWS), WEIGHTS if weighted else None, softmax)
    forward = model(ROWS)
    np.testing.assert_allclose(outputs[exported.graph.output[0].name], forward, rtol=1e-5)
    np.testing.assert_allclose(outputs["loss"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(outputs["dlogits"], expected[1], rtol=1e-4, atol=1e-6)
    assert len(exported.graph.output) == count + 2
    assert not inline or {entry.domain for entry in exported.opset_import}.isdisjoint({"onnxloss"})


def test_a_convolutional_model_with_a_loss_for_every_pixel() -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 5, 2), name="image")
    hidden = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    model = keras.Model(image, keras.layers.Conv2D(3, 1)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    pixels = RNG.standard_normal((2, 6, 5, 2)).astype(np.float32)
    labels = np.where(RNG.random((2, 6, 5)) < 0.3, 255, RNG.integers(0, 3, (2, 6, 5)))
    exported = onnxloss.tf.export(model, loss)
    outputs = run_model(exported, {exported.graph.input[0].name: pixels, "labels": labels})
    np.testing.assert_allclose(outputs["loss"], loss(labels, model(pixels)), rtol=1e-5)


def test_a_function_with_two_outputs(tmp_path: Path) -> None:
    matrix = RNG.standard_normal((4, 3)).astype(np.float32)

    def model(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        hidden = tf.nn.relu(rows)
        return hidden, hidden @ matrix

    labels = np.eye(3, dtype=np.float32)[INDEX]
    exported = onnxloss.tf.export(
        model,
        "tf.compat.v1.losses.softmax_cross_entropy",
        [tf.TensorSpec((None, 4), tf.float32, name="rows")],
        tmp_path / "model.onnx",
        output=1,
        sample_weights="weights",
        label_smoothing=0.2,
    )
    feeds = {"rows": ROWS, "labels": labels, "weights": WEIGHTS}
    expected = tf.compat.v1.losses.softmax_cross_entropy(
        labels, model(tf.constant(ROWS))[1], weights=WEIGHTS, label_smoothing=0.2
    )
    np.testing.assert_allclose(run_model(exported, feeds)["loss"], expected, rtol=1e-5)
    assert onnx.load(tmp_path / "model.onnx") == exported


def test_a_softmax_at_a_model_s_end_is_not_clipped() -> None:
    """Keras takes the softmax's input for the loss: 40, where the clipped log is 16.1."""
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Softmax()])
    rows, labels = np.array([[40, 0, 0]], np.float32), np.array([[0, 1, 0]], np.float32)
    for name, is_warned in (("probabilities", False), ("categorical", True)):
        loss = KERAS_LOSSES[name]
        with pytest.warns(UserWarning, match="softmax") if is_warned else nullcontext():
            exported = onnxloss.tf.export(model, loss)
        feeds = {exported.graph.input[0].name: rows, "labels": labels}
        with pytest.warns(UserWarning, match="Softmax") if is_warned else nullcontext():
            value = loss(labels, model(rows))
        np.testing.assert_allclose(run_model(exported, feeds)["loss"], value, rtol=1e-5)
    assert KERAS_LOSSES["probabilities"](labels, model(rows)) == 40
    # A cast forgets the softmax's input.
    loss = keras.losses.CategoricalCrossentropy(dtype="float64")
    outputs = run_model(onnxloss.tf.export(model, loss), feeds)
    np.testing.assert_allclose(outputs["loss"], loss(labels, model(rows)), rtol=1e-5)

    exported = onnxloss.tf.export(
        lambda given: tf.nn.softmax(given),
        KERAS_LOSSES["probabilities"],
        [tf.TensorSpec((None, 3), tf.float32, name="rows")],
    )
    value = KERAS_LOSSES["probabilities"](labels, tf.nn.softmax(rows))
    outputs = run_model(exported, {"rows": rows, "labels": labels})
    np.testing.assert_allclose(outputs["loss"], value, rtol=1e-5)


L = keras.layers
# A layer takes the seed of its weights where it is made.
ENDS: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "softmax": ((5,), lambda: [L.Dense(3, activation="softmax")]),
    "sigmoid": ((5,), lambda: [L.Dense(3, activation="sigmoid")]),
    # tf2onnx moves its transposition behind the softmax, ...
    "Conv2D": ((2, 3, 5), lambda: [L.Conv2D(3, 1, activation="softmax")]),
    "Conv1D": ((4, 5), lambda: [L.Conv1D(3, 1), L.Softmax()]),
    "Permute": ((3, 4), lambda: [L.Permute((2, 1)), L.Softmax()]),
    # ... and drops what makes another tensor of the softmax's.
    "identity": ((5,), lambda: [L.Dense(3, activation="softmax"), L.Lambda(tf.identity)]),
    "product": ((5,), lambda: [L.Dense(3, activation="softmax"), L.Lambda(lambda p: p * 1.0)]),
    "Reshape": ((5,), lambda: [L.Dense(3, activation="softmax"), L.Reshape((3,))]),
    "TensorFlow's softmax": ((5,), lambda: [L.Dense(3), L.Lambda(tf.nn.softmax)]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("from_logits", (False, True))
@pytest.mark.parametrize("ignored", (None, 1))
def test_a_loss_stands_where_keras_computes_it(
    end: str, from_logits: bool, ignored: int | None
) -> None:
    """As in a graph, where Keras trains; logits lie so far apart that it shows."""
    shape, layers = ENDS[end]
    keras.utils.set_random_seed(1)
    model = keras.Sequential([L.Input(shape), *layers()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits, ignore_class=ignored)
    rng = np.random.default_rng(4)
    given = 60 * rng.standard_normal((4, *shape)).astype(np.float32)
    labels = np.resize([0, 1, 2], model(given).shape[:-1])
    exported = onnxloss.tf.export(model, loss)
    outputs = run_model(exported, {exported.graph.input[0].name: given, "labels": labels})
    value = tf.function(lambda rows: loss(labels, model(rows)), autograph=False)(given)
    # A logit of 100 is right to 1e-5, and so is its probability at best.
    np.testing.assert_allclose(outputs["loss"], value, rtol=1e-4)
    first = exported.graph.output[0].name
    assert [output.name for output in exported.graph.output] == [first, "loss"]
    np.testing.assert_allclose(outputs[first], model(given), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("output", (0, 1))
@pytest.mark.parametrize("named", (False, True))
def test_a_model_that_gives_its_logits_too_keeps_them(named: bool, output: int) -> None:
    keras.utils.set_random_seed(1)
    rows = keras.Input((4,), name="rows")
    logits = L.Dense(3)(rows)
    given = [L.Softmax()(logits), logits]
    model = keras.Model(rows, dict(zip(("p", "x"), given, strict=True)) if named else given)
    loss = keras.losses.CategoricalCrossentropy(from_logits=output == 1)
    exported = onnxloss.tf.export(model, loss, output=output)
    labels = np.eye(3, dtype=np.float32)[INDEX]
    outputs = run_model(exported, {"rows": 60 * ROWS, "labels": labels})
    theirs = tf.nest.flatten(model(60 * ROWS))
    names = ["p", "x"] if named else ["Identity:0", "Identity_1:0"]
    assert list(outputs) == [*names, "loss"]
    for name, value in zip(names, theirs, strict=True):
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(outputs["loss"], loss(labels, theirs[output]), rtol=1e-5)


def test_a_model_with_a_dict_of_inputs() -> None:
    keras.utils.set_random_seed(1)
    rows = {name: L.Input((4,), name=name) for name in ("zeta", "alpha")}
    joined = L.Concatenate()([rows["zeta"], 2 * rows["alpha"]])
    model = keras.Model(rows, L.Dense(3)(joined))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    feeds = {"zeta": ROWS, "alpha": ROWS[::-1]}
    outputs = run_model(onnxloss.tf.export(model, loss), {**feeds, "labels": INDEX})
    np.testing.assert_allclose(outputs["loss"], loss(INDEX, model(feeds)), rtol=1e-5)

    signature = [tf.TensorSpec((None, 4), tf.float32, name=name) for name in rows]
    with pytest.raises(onnxloss.LossError, match=r"expected \['alpha', 'zeta'\]: as in"):
        onnxloss.tf.export(model, loss, signature)


def test_bfloat16_is_refused() -> None:
    """tf2onnx writes it as float16, and weights as bfloat16."""
    loss = keras.losses.SparseCategoricalCrossentropy()
    policy = keras.DTypePolicy("mixed_bfloat16")
    model = keras.Sequential([L.Input((4,)), L.Dense(3, dtype=policy), L.Softmax(dtype="float32")])
    with pytest.raises(onnxloss.LossError, match=r"bfloat16; expected another"):
        onnxloss.tf.export(model, loss)

    @tf.function(autograph=False)
    def inner(rows: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(rows, tf.bfloat16), tf.float32)

    with pytest.raises(onnxloss.LossError, match=r"bfloat16; expected another"):
        onnxloss.tf.export(lambda rows: inner(rows), loss, [tf.TensorSpec((None, 4), tf.float32)])


def test_a_keras_mask_is_refused() -> None:
    """Keras's loss objects leave its positions out; their functions know of none."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [L.Input((4,), dtype="int32", name="tokens"), L.Embedding(9, 5, mask_zero=True), L.Dense(3)]
    )
    tokens, labels = np.array([[1, 2, 3, 0], [4, 0, 0, 0]], np.int32), np.array([[0, 1, 2, 0]] * 2)
    feeds = {"tokens": tokens, "labels": labels}
    signature = [tf.TensorSpec((None, 4), tf.int32, name="tokens")]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for masked in (model, lambda tokens: model(tokens)):
        with pytest.raises(onnxloss.LossError, match=r"^tf.export: output 0 .* has a Keras mask"):
            onnxloss.tf.export(masked, loss, signature)
    # What the error says to do is what Keras does.
    by_weights = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    exported = onnxloss.tf.export(tf.function(model), by_weights, signature, sample_weights="mask")
    outputs = run_model(exported, {**feeds, "mask": (tokens != 0).astype(np.float32)})
    np.testing.assert_allclose(outputs["loss"], loss(labels, model(tokens)), rtol=1e-5)

    function = keras.losses.sparse_categorical_crossentropy
    outputs = run_model(onnxloss.tf.export(model, function, from_logits=True), feeds)
    value = function(labels, model(tokens), from_logits=True)
    np.testing.assert_allclose(outputs["loss"], value, rtol=1e-5)


def test_logits_200_apart() -> None:
    """tf2onnx takes exp and log of them: inf."""
    exported = onnxloss.tf.export(
        lambda rows: rows * 1.0,
        "tf.nn.sparse_softmax_cross_entropy_with_logits",
        [tf.TensorSpec((None, 3), tf.float32)],
    )
    rows = np.array([[200, 0, 0]], np.float32)
    outputs = run_model(exported, {"rows": rows, "labels": np.array([1])})
    np.testing.assert_allclose(outputs["loss"], [200], rtol=1e-6)


def test_refusals() -> None:
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    subclassed = type("Subclassed", (keras.Model,), {"call": lambda self, rows: rows})()
    subclassed(ROWS)
    for model in (lambda rows: rows, subclassed, keras.Sequential([L.Dense(3)])):
        with pytest.raises(onnxloss.LossError, match="input_signature is None"):
            onnxloss.tf.export(model, loss)
    with pytest.raises(onnxloss.LossError, match=r"output is 1; expected a number in \[0, 1\)"):
        onnxloss.tf.export(classifier(), loss, output=1)
    with pytest.raises(onnxloss.LossError, match=r"output is 0\.0; expected a number in"):
        onnxloss.tf.export(classifier(), loss, output=0.0)
    with pytest.raises(onnxloss.LossError, match='input_signature is "TensorSpec"; expected a l'):
        onnxloss.tf.export(classifier(), loss, tf.TensorSpec((None, 4), tf.float32))
    with pytest.raises(onnxloss.LossError, match="axis is given beside a configuration"):
        onnxloss.tf.export(classifier(), onnxloss.from_tf(loss), axis=1)
    with pytest.raises(onnxloss.LossError, match="tf2onnx cannot convert the model"):
        onnxloss.tf.export(
            lambda rows: tf.raw_ops.Qr(input=rows)[0],
            loss,
            [tf.TensorSpec((3, 3), tf.float32, name="rows")],
        )
    outside = tf.constant(np.eye(3, dtype=np.float32))
    with pytest.raises(onnxloss.LossError, match=r"make a tensor .* a tf.Variable"):
        onnxloss.tf.export(
            lambda rows: rows @ outside,
            loss,
            [tf.TensorSpec((None, 3), tf.float32, name="rows")],
        )
