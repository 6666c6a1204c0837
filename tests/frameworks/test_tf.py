# SPDX-License-Identifier: MIT
"""TensorFlow's and Keras's own losses and gradients against the exported model.

The configurations are random; what they refuse we must refuse. Left out are the rows on which we
differ by design: -inf under a label of 0, and 0 times infinity. The fused kernel's gradient is
p - t, right only for labels that add up to 1: for the others the gradient is compared with the one
that TensorFlow itself derives from the formula.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

import keras  # noqa: E402
import ml_dtypes  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from keras.src.losses.loss import reduce_weighted_values  # noqa: E402

import onnxloss  # noqa: E402
from onnxloss.from_tf import SETTINGS  # noqa: E402
from tests.frameworks.examples import drawn  # noqa: E402
from tests.runtime import RUNTIME_ERRORS, WAYS, dtype_of, run_model  # noqa: E402

TOLERANCES = {"float64": 2e-5, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""By the loss's dtype; TensorFlow computes most float64 losses in float32."""
APIS = {
    "tf.compat.v1.losses.softmax_cross_entropy": tf.compat.v1.losses.softmax_cross_entropy,
    "tf.nn.softmax_cross_entropy_with_logits": tf.nn.softmax_cross_entropy_with_logits,
    "tf.nn.sparse_softmax_cross_entropy_with_logits": (
        tf.nn.sparse_softmax_cross_entropy_with_logits
    ),
    "keras.losses.CategoricalCrossentropy": keras.losses.CategoricalCrossentropy,
    "keras.losses.SparseCategoricalCrossentropy": keras.losses.SparseCategoricalCrossentropy,
    "keras.losses.categorical_crossentropy": keras.losses.categorical_crossentropy,
    "keras.losses.sparse_categorical_crossentropy": keras.losses.sparse_categorical_crossentropy,
}
V1, DENSE, SPARSE, CC, SCC, CC_FUNCTION, SCC_FUNCTION = APIS
CLASSES = (CC, SCC)
KERAS = (CC, SCC, CC_FUNCTION, SCC_FUNCTION)
HARD = (SPARSE, SCC, SCC_FUNCTION)

SHAPES = (
    (3,),
    (2, 3),
    (1, 3),
    (1, 1),
    (0, 4),
    (5, 7),
    (4, 33),
    (2, 3, 4),
    (2, 1, 3),
    (2, 3, 1),
    (2, 5, 2, 3),
)
TRAITS = ("plain", "offset", "gap", "masked", "ignored", "ignored nan", "all ignored")
WEIGHTS = (None, None, "scalar", "full", "ones", "less", "more", "batch", "some zero", "zero")
SMOOTHINGS = (0, 0.1, 1 / 3, 1.0, 1.5, -0.2)
KERAS_REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None)
V1_REDUCTIONS = tuple(
    getattr(tf.compat.v1.losses.Reduction, name)
    for name in (
        "NONE",
        "SUM",
        "MEAN",
        "SUM_OVER_BATCH_SIZE",
        "SUM_BY_NONZERO_WEIGHTS",
        "SUM_OVER_NONZERO_WEIGHTS",
    )
)
Case = dict[str, Any]


@st.composite
def configurations(draw: st.DrawFn) -> Case:
    api = draw(st.sampled_from(tuple(APIS)))
    shape = draw(st.sampled_from(SHAPES))
    settings: dict[str, Any] = {}
    if api in (DENSE, CC, CC_FUNCTION):
        axes = {-1, 0, len(shape) - 1, -len(shape), min(1, len(shape) - 1)}
        settings["axis"] = draw(st.sampled_from([axis for axis in sorted(axes) if shape[axis]]))
    if api in (V1, CC, CC_FUNCTION):
        settings["label_smoothing"] = draw(st.sampled_from(SMOOTHINGS))
    if api == V1:
        settings["reduction"] = draw(st.sampled_from(V1_REDUCTIONS))
    if api in (SCC, SCC_FUNCTION):
        settings["axis"] = draw(st.sampled_from((-1, len(shape) - 1)))
        settings["ignore_class"] = draw(st.sampled_from((None, -1, 0, 1, 255)))
    if api in KERAS:
        settings["from_logits"] = draw(st.booleans())
    if api in CLASSES:
        settings["reduction"] = draw(st.sampled_from(KERAS_REDUCTIONS))
        settings["dtype"] = draw(st.sampled_from((None, None, None, "float64", "float16")))
    return {
        "api": api,
        "shape": shape,
        "settings": settings,
        "dtype": draw(st.sampled_from(("float32", "float64", "float16", "bfloat16"))),
        "label_dtype": draw(st.sampled_from((None, None, "float32", "int32"))),
        "labels": draw(st.sampled_from(("one-hot", "normalised", "unnormalised"))),
        "labels_keep_axis": api in (SCC, SCC_FUNCTION) and draw(st.booleans()),
        "trait": draw(st.sampled_from(TRAITS)),
        "weights": draw(st.sampled_from(WEIGHTS)) if api in (V1, *CLASSES) else None,
        "constant": api == V1 and draw(st.booleans()),
        "given_as": draw(st.sampled_from(("object", "name"))),
        "way": draw(st.sampled_from(WAYS)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@pytest.mark.filterwarnings("ignore:In loss categorical_crossentropy:SyntaxWarning")
@drawn()
@hypothesis.given(configurations())
def test_loss_and_gradient_equal_tensorflow(case: Case) -> None:
    rng = np.random.default_rng(case["seed"])
    logits, labels = inputs_of(case, rng)
    weights = weights_of(case, rng)
    try:
        loss, gradient, dloss = differentiated(their_loss(case, labels, weights), logits, rng)
    except (ValueError, IndexError, tf.errors.InvalidArgumentError):
        with pytest.raises((onnxloss.LossError, *RUNTIME_ERRORS)):
            run_ours(case, logits, labels, weights, None)
        return
    hypothesis.assume(not (weights is not None and is_on_another_axis(case, weights)))
    result = run_ours(case, logits, labels, weights, dloss)

    tolerance = max(TOLERANCES[case["dtype"]], TOLERANCES[loss.dtype.name])
    assert result["loss"].dtype == expected_dtype(case)
    assert_close(result["loss"], loss, tolerance * summed_in_16_bits(case))
    if labels_add_up_to_one(case):
        assert_close(result["dlogits"], gradient, tolerance)
    if is_fused(case):
        _, gradient, _ = differentiated(formula(case, labels, weights), logits, None, dloss)
        assert_close(result["dlogits"], gradient, tolerance)


def summed_in_16_bits(case: Case) -> int:
    """How many losses the framework rounds to 16 bits before it adds them up."""
    is_sum = case["settings"].get("reduction") in ("sum", "weighted_sum")
    narrow = np_dtype(their_dtype(case)).itemsize == 2
    return max(1, int(np.prod(positions_of(case)))) if is_sum and narrow else 1


def class_axis(case: Case) -> int:
    return case["settings"].get("axis", -1) % len(case["shape"])


def positions_of(case: Case) -> tuple[int, ...]:
    axis = class_axis(case)
    return case["shape"][:axis] + case["shape"][axis + 1 :]


def inputs_of(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    axis, shape, trait = class_axis(case), case["shape"], case["trait"]
    classes = shape[axis]
    dtype = np_dtype(case["dtype"])
    scores = rng.standard_normal(shape) * (8 if trait == "gap" else 1)
    index = rng.integers(0, classes, positions_of(case))
    ignored = case["settings"].get("ignore_class")
    is_ignored = np.zeros(index.shape, bool)
    if ignored is not None:
        share = {"ignored": 0.4, "ignored nan": 0.4, "all ignored": 1}.get(trait, 0)
        is_ignored = rng.random(index.shape) < share
        index = np.where(is_ignored, ignored, index)
    if not case["settings"].get("from_logits", True):
        logits = probabilities(case, scores, axis, rng)
    else:
        logits = scores + (64 if trait == "offset" else 0)
        if trait == "masked" and case["api"] in HARD and ignored is None and classes > 1:
            mask = np.moveaxis(rng.random(shape) < 0.3, axis, -1)
            np.put_along_axis(mask, np.asarray(index)[..., None], False, -1)
            logits = np.where(np.moveaxis(mask, -1, axis), -np.inf, logits)
    if trait == "ignored nan":
        logits = np.where(np.expand_dims(is_ignored, axis), np.nan, logits)
    if case["api"] in HARD:
        wanted = case["label_dtype"] if case["api"] in KERAS else None
        labels = np.asarray(index).astype(wanted or "int64")
        labels = np.expand_dims(labels, axis) if case["labels_keep_axis"] else labels
    else:
        labels = dense_labels(case, index, axis, rng)
    # Keras casts to its own dtype, down too: what it drops there is not compared.
    rounded = np.asarray(logits).astype(dtype).astype(np_dtype(their_dtype(case)))
    return rounded.astype(dtype), labels


def probabilities(
    case: Case, scores: np.ndarray, axis: int, rng: np.random.Generator
) -> np.ndarray:
    """Of some the exact 0 and 1, which are clipped, where 16 bits do not move the bounds."""
    exp = np.exp(scores - scores.max(axis, keepdims=True, initial=0))
    p = np.clip(exp / exp.sum(axis, keepdims=True), 0.01, 0.98)
    widths = {np_dtype(case["dtype"]).itemsize, np_dtype(their_dtype(case)).itemsize}
    if case["trait"] == "masked" and 2 not in widths:
        # One stays: a sum of 0 has nan for its share, which the test of exact values has.
        mask = np.moveaxis(rng.random(p.shape) < 0.3, axis, -1)
        mask[..., 0] = False
        p = np.where(np.moveaxis(mask, -1, axis), rng.choice((0.0, 1.0)), p)
    p = p * (2 if case["trait"] == "offset" else 1)
    # In 16 bits the upper bound is 1, and clips no 1; in ours, which clips in float32, it does.
    return np.where(np.abs(p - 1) < 0.01, 0.97, p) if 2 in widths else p


def dense_labels(case: Case, index: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    wanted = case["label_dtype"] or case["dtype"]
    if case["labels"] == "one-hot" or wanted == "int32":
        labels = np.moveaxis(np.eye(case["shape"][axis])[index], -1, axis)
    else:
        labels = rng.random(case["shape"])
        if case["labels"] == "normalised":
            labels = labels / labels.sum(axis, keepdims=True)
    return labels.astype(np_dtype(wanted))


def weights_of(case: Case, rng: np.random.Generator) -> np.ndarray | None:
    positions, form = positions_of(case), case["weights"]
    if form is None:
        return None
    shape = {
        "scalar": (),
        "ones": tuple(size if rng.random() < 0.5 else 1 for size in positions),
        "less": positions[1:],
        "more": (*positions, 1),
        "batch": positions[:1],
    }.get(form, positions)
    weights = np.asarray(rng.uniform(0.25, 2, shape))
    kept = {"some zero": 0.6, "zero": 0.0}.get(form, 1.0)
    return np.where(rng.random(shape) < kept, weights, 0.0).astype(np.float32)


def is_on_another_axis(case: Case, weights: np.ndarray) -> bool:
    """Weights [N, 1] of positions [N], unreduced, give [N, 1] even where N is the last axis."""
    keeps = case["settings"]["reduction"] in ("none", None) and weights.ndim == 2
    return keeps and case["api"] == CC and len(case["shape"]) == 2 and class_axis(case) == 0


def their_dtype(case: Case) -> str:
    """The dtype that the framework computes in."""
    if case["api"] in CLASSES:
        return case["settings"]["dtype"] or "float32"
    return case["dtype"]


def expected_dtype(case: Case) -> np.dtype:
    """The loss's: the wider of the two."""
    names = {case["dtype"], their_dtype(case)}
    if len(names) == 1:
        return np_dtype(names.pop())
    return np_dtype("float64" if "float64" in names else "float32")


def their_loss(
    case: Case, labels: np.ndarray, weights: np.ndarray | None
) -> Callable[[tf.Tensor], tf.Tensor]:
    api, settings, given = case["api"], case["settings"], tf.constant(labels)
    if api in CLASSES:
        loss = APIS[api](**settings)
        return lambda logits: loss(given, logits, sample_weight=weights)
    if api in KERAS:
        return lambda logits: APIS[api](given, logits, **settings)
    if api == V1 and weights is not None:
        settings = {**settings, "weights": weights}
    return lambda logits: APIS[api](given, logits=logits, **settings)


def is_fused(case: Case) -> bool:
    return case["api"] not in HARD and case["settings"].get("from_logits", True)


def labels_add_up_to_one(case: Case) -> bool:
    """Where they do not, the fused gradient is not the derivative."""
    whole = case["labels"] != "unnormalised" or case["label_dtype"] == "int32"
    axis = class_axis(case)
    shares = case["shape"][axis] == case["shape"][-1] or not case["settings"].get("label_smoothing")
    return not is_fused(case) or (whole and shares)


def formula(
    case: Case, labels: np.ndarray, weights: np.ndarray | None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The dense losses from their definition, with the framework's own reduction."""
    settings, axis = case["settings"], class_axis(case)
    wide = "float64"
    factor = settings.get("label_smoothing", 0)
    if case["api"] == V1:
        factor = max(factor, 0)
    targets = tf.cast(labels, wide) * (1 - factor) + factor / max(labels.shape[-1], 1)

    def loss(logits: tf.Tensor) -> tf.Tensor:
        losses = -tf.reduce_sum(targets * tf.nn.log_softmax(tf.cast(logits, wide), axis), axis)
        if case["api"] == CC:
            return reduce_weighted_values(losses, weights, None, settings["reduction"], wide)
        if case["api"] == V1:
            return tf.compat.v1.losses.compute_weighted_loss(
                losses, 1.0 if weights is None else weights, reduction=settings["reduction"]
            )
        return losses

    return loss


def differentiated(
    loss: Callable[[tf.Tensor], tf.Tensor],
    logits: np.ndarray,
    rng: np.random.Generator | None,
    dloss: np.ndarray | None = None,
) -> tuple[tf.Tensor, tf.Tensor, np.ndarray]:
    variable = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        value = loss(variable)
    if rng is not None:
        dloss = np.asarray(rng.uniform(0.5, 2, value.shape))
    upstream = tf.reshape(tf.cast(dloss, value.dtype), value.shape)
    return value, tape.gradient(value, variable, output_gradients=upstream), dloss


def run_ours(
    case: Case,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    dloss: np.ndarray | None,
) -> dict[str, np.ndarray]:
    api, settings = case["api"], case["settings"]
    if case["constant"] and weights is not None:
        settings = {**settings, "weights": weights}
    as_instance = case["given_as"] == "object" and api in CLASSES
    if as_instance:
        config = onnxloss.from_tf(APIS[api](**settings))
    else:
        config = onnxloss.from_tf(APIS[api] if case["given_as"] == "object" else api, **settings)
    is_input = weights is not None and not case["constant"]
    model = onnxloss.export(
        config,
        logits=logits.shape,
        labels=labels.shape,
        sample_weights=weights.shape if is_input else None,
        dtype=logits.dtype.name,
        label_dtype=labels.dtype.name,
        gradient=True,
        inline=case["way"] == "inlined",
    )
    upstream = np.ones(()) if dloss is None else dloss
    feeds = {"logits": logits, "labels": labels}
    feeds["dloss"] = upstream.astype(dtype_of(model, "dloss"))
    if is_input:
        feeds["sample_weights"] = weights.astype(dtype_of(model, "sample_weights"))
    return run_model(model, feeds, library=case["way"] == "library")


def test_every_parameter_is_mapped() -> None:
    """A parameter that TensorFlow adds must be mapped or refused by name, never met in silence."""
    data = {"labels", "logits", "onehot_labels", "y_true", "y_pred"}
    assert set(SETTINGS) == set(APIS)
    for name, api in APIS.items():
        parameters = inspect.signature(api).parameters
        assert set(parameters) - data == set(SETTINGS[name]), name
        for setting, default in SETTINGS[name].items():
            assert parameters[setting].default == default, f"{name} {setting}"


def test_every_argument_of_a_call_is_an_input() -> None:
    parameters = set(inspect.signature(keras.losses.Loss.__call__).parameters)
    assert parameters == {"self", "y_true", "y_pred", "sample_weight"}


def test_every_reduction_is_mapped() -> None:
    for reduction in tf.compat.v1.losses.Reduction.all():
        assert onnxloss.from_tf(V1, reduction=reduction).sample_weights is True
    for reduction in KERAS_REDUCTIONS:
        keras.losses.CategoricalCrossentropy(reduction=reduction)
        assert onnxloss.from_tf(CC, reduction=reduction).sample_weights is True


@pytest.mark.parametrize("weights", ("constant", "input"))
def test_the_documentation_s_example(weights: str) -> None:
    labels = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    logits = np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]], np.float32)
    values = np.array([0.3, 0.7], np.float32)
    theirs = tf.compat.v1.losses.softmax_cross_entropy(
        labels, logits, weights=values, label_smoothing=0.2
    )
    given = {"weights": values} if weights == "constant" else {}
    model = onnxloss.export(
        onnxloss.from_tf(V1, label_smoothing=0.2, **given),
        logits=logits.shape,
        sample_weights=None if given else values.shape,
    )
    feeds = {"logits": logits, "labels": labels} | ({} if given else {"sample_weights": values})
    loss = run_model(model, feeds)["loss"]
    np.testing.assert_allclose(loss, theirs.numpy(), rtol=1e-6)
    np.testing.assert_allclose(loss, 0.57618, atol=5e-6)


def test_a_subclass_is_refused() -> None:
    class Tempered(keras.losses.CategoricalCrossentropy):
        """Computes something else."""

    with pytest.raises(onnxloss.LossError, match=r"loss is .*Tempered"):
        onnxloss.from_tf(Tempered())


def test_settings_beside_an_instance_are_refused() -> None:
    with pytest.raises(onnxloss.LossError, match="axis is given beside an instance"):
        onnxloss.from_tf(keras.losses.CategoricalCrossentropy(), axis=1)


@pytest.mark.parametrize("policy", ("float16", "mixed_bfloat16", "float64"))
def test_a_dtype_policy_counts(policy: str) -> None:
    given = keras.DTypePolicy(policy)
    instance = keras.losses.CategoricalCrossentropy(from_logits=True, dtype=given)
    expected = instance.dtype
    for config in (
        onnxloss.from_tf(instance),
        onnxloss.from_tf(CC, from_logits=True, dtype=given),
        onnxloss.from_tf(CC, from_logits=True, dtype=policy),
    ):
        assert config.compute_dtype == expected


def np_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def assert_close(ours: np.ndarray, theirs: tf.Tensor, tolerance: float) -> None:
    """Near a sum of n terms both round differently: the bound grows with what is summed."""
    wanted = tf.cast(theirs, tf.float64).numpy()
    scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(
        ours.astype(np.float64), wanted, rtol=tolerance, atol=tolerance * scale
    )
