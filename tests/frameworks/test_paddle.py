# SPDX-License-Identifier: MIT
"""Paddle's own loss and autograd against the exported model, over random configurations.

What one of the two refuses the other refuses too, but for configurations with which Paddle gives a
number that is silently wrong; these we refuse. Artefacts of Paddle's CPU kernel are left out:

* the clip at 64 below the largest logit: gaps stay below it, and -inf stands only under a
  coefficient of 0;
* the gradient p - t of probabilities that do not add up to 1: here they do;
* probabilities of 0 among the inputs of `use_softmax=False`, whose log it clips to 1e20;
* labels beyond int32, which it truncates, and float labels, which have no gradient kernel;
* unbatched float32 logits with float64 weights: a scalar promotes nothing, and the loss is float32;
* probabilities with float64 logits and float32 weights, whose loss it narrows to float32;
* labels `[N]` of `softmax_with_cross_entropy`, reshaped to `[N, C]`: right for one class only;
* `label_smoothing` and smoothed indices held as float32: float64 losses are compared to 2e-7 then.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Paddle's import warns of a compiler cache that is not there.
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import strategies as st  # noqa: E402

import onnxloss  # noqa: E402
from onnxloss.from_paddle import SETTINGS  # noqa: E402
from tests.frameworks.examples import drawn  # noqa: E402
from tests.runtime import RUNTIME_ERRORS, WAYS, run_model  # noqa: E402

_TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
_SHAPES_AND_AXES = (
    ((3,), -1),
    ((3,), 0),
    ((2, 3), -1),
    ((2, 3), 1),
    ((3, 2), 0),
    ((4, 1), -1),
    ((0, 4), -1),
    ((5, 33), -1),
    ((3, 2, 4), -1),
    ((2, 3, 4), 1),
    ((2, 3, 3), 1),
    ((3, 2, 3), 0),
    ((2, 0, 3), -1),
    ((2, 5, 2, 3), 1),
    ((2, 2, 5, 3), -2),
    ((2, 2, 3, 5), 3),
)
_TRAITS = (
    "plain",
    "offset",
    "gap",
    "masked",
    "ignored",
    "all ignored",
    "nan ignored",
    "nan",
    "inf",
)
_CROSS_ENTROPY = "paddle.nn.functional.cross_entropy"
_WITH_SOFTMAX = "paddle.nn.functional.softmax_with_cross_entropy"


@st.composite
def _configurations(draw: st.DrawFn) -> dict[str, Any]:
    shape, axis = draw(st.sampled_from(_SHAPES_AND_AXES))
    case = {
        "api": draw(st.sampled_from(("function", "function", "layer", "with softmax"))),
        "shape": shape,
        "axis": axis,
        "labels": draw(st.sampled_from(("dropped", "kept", "probabilities"))),
        "label_dtype": draw(st.sampled_from(("int64", "int32"))),
        "dtype": draw(st.sampled_from(tuple(_TOLERANCE))),
        "trait": draw(st.sampled_from(_TRAITS)),
        "reduction": draw(st.sampled_from(("none", "mean", "mean", "sum"))),
        "label_smoothing": draw(st.sampled_from((0.0, 0.0, 0.1, 1 / 3, 0.5, 1.0))),
        "soft_label_fits": draw(st.booleans()),
        "ignore_index": draw(st.sampled_from((-100, -100, -1, 0, 1, 255))),
        "weight": draw(st.sampled_from((None, "random", "some zero", "all zero", "other dtype"))),
        "use_softmax": draw(st.sampled_from((True, True, False))),
        "return_softmax": draw(st.booleans()),
        "static_shape": draw(st.booleans()),
        "way": draw(st.sampled_from(WAYS)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
    return case if draw(st.integers(0, 9)) == 9 else _fitted(case)


def _fitted(case: dict[str, Any]) -> dict[str, Any]:
    """The case with the settings changed that Paddle would refuse or get wrong."""
    smoothed, soft = _is_smoothed(case), case["labels"] == "probabilities"
    changes: dict[str, Any] = {"soft_label_fits": True}
    if case["api"] == "with softmax" and not soft:
        changes["labels"] = "kept"
    elif smoothed and not soft:
        changes["labels"] = "dropped"
    if smoothed or soft:
        changes["ignore_index"] = -100
    if smoothed and case["trait"] in ("ignored", "all ignored"):
        changes["trait"] = "plain"
    if case["axis"] % len(case["shape"]) != len(case["shape"]) - 1:
        changes["label_smoothing"] = 0.0
        changes["weight"] = None if soft else case["weight"]
    return {**case, **changes}


def _settings(case: dict[str, Any]) -> dict[str, Any]:
    soft_label = (case["labels"] == "probabilities") == case["soft_label_fits"]
    common = {
        "axis": case["axis"],
        "soft_label": soft_label,
        "ignore_index": case["ignore_index"],
    }
    if case["api"] == "with softmax":
        return {**common, "return_softmax": case["return_softmax"]}
    return {
        **common,
        **{name: case[name] for name in ("reduction", "label_smoothing", "use_softmax")},
    }


def _is_smoothed(case: dict[str, Any]) -> bool:
    return case["api"] != "with softmax" and case["label_smoothing"] > 0


def _is_weighted(case: dict[str, Any]) -> bool:
    return case["api"] != "with softmax" and case["weight"] is not None


def _is_silently_wrong(case: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Where we refuse what Paddle takes: it gives a number for another loss."""
    if case["api"] == "with softmax":
        return False
    smoothed, soft = _is_smoothed(case), settings["soft_label"]
    inner = case["axis"] % len(case["shape"]) != len(case["shape"]) - 1
    ignores = (smoothed or soft) and case["ignore_index"] >= 0
    return ignores or (inner and (smoothed or (soft and _is_weighted(case))))


def _arrays(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Logits, labels and class weights."""
    rng = np.random.default_rng(case["seed"])
    shape, trait = case["shape"], case["trait"]
    axis = case["axis"] % len(shape)
    classes = shape[axis]
    logits = rng.standard_normal(shape)
    logits *= np.minimum(8, 60 / np.ptp(logits)) if trait == "gap" and logits.size > 1 else 1
    logits += 64 if trait == "offset" else 0
    labels = rng.integers(0, classes, shape[:axis] + (1,) + shape[axis + 1 :])
    rows = rng.random(labels.shape) < 0.4
    if trait == "masked" and not _is_smoothed(case):
        mask = rng.random(shape) < 0.3
        np.put_along_axis(mask, labels, False, axis)
        logits = np.where(mask, -np.inf, logits)
    if case["use_softmax"] is False and case["api"] != "with softmax":
        logits = np.exp(np.clip(rng.standard_normal(shape), -3, 3))
        logits /= logits.sum(axis, keepdims=True)
    else:
        logits = np.where(rows, {"nan": np.nan, "inf": np.inf}.get(trait, logits), logits)

    if case["labels"] == "probabilities":
        t = np.where(np.isneginf(logits), 0, rng.random(shape) + 0.01)
        labels = (t / t.sum(axis, keepdims=True)).astype(case["dtype"])
    else:
        ignored = {"ignored": rows, "nan ignored": rows, "all ignored": True}.get(trait, False)
        labels = np.where(ignored, case["ignore_index"], labels).astype(case["label_dtype"])
        if trait == "nan ignored" and case["use_softmax"] and not _is_smoothed(case):
            logits = np.where(labels == case["ignore_index"], np.nan, logits)
        if case["labels"] == "dropped":
            labels = np.squeeze(labels, axis)
    weight = None
    if _is_weighted(case):
        weight = rng.random(classes) + 0.1
        if case["weight"] == "some zero":
            weight[rng.random(classes) < 0.3] = 0
        weight *= case["weight"] != "all zero"
        other = {"float32": "float64", "float64": "float32"}[case["dtype"]]
        weight = weight.astype(other if case["weight"] == "other dtype" else case["dtype"])
    return logits.astype(case["dtype"]), labels, weight


def _theirs(
    case: dict[str, Any],
    settings: dict[str, Any],
    logits: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray | None,
) -> dict[str, np.ndarray]:
    x = paddle.to_tensor(logits, stop_gradient=False)
    if weight is not None:
        settings = {**settings, "weight": paddle.to_tensor(weight)}
    label = paddle.to_tensor(labels)
    result = {}
    if case["api"] == "layer":
        loss = paddle.nn.CrossEntropyLoss(**settings)(x, label)
    elif case["api"] == "function":
        loss = paddle.nn.functional.cross_entropy(x, label, **settings)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It is deprecated.
            loss = paddle.nn.functional.softmax_with_cross_entropy(x, label, **settings)
        if settings["return_softmax"]:
            loss, result["probabilities"] = loss[0], loss[1].numpy()
    dloss = np.random.default_rng(case["seed"]).uniform(0.5, 2, loss.shape)
    result["dloss"] = np.asarray(dloss).astype(loss.numpy().dtype)
    loss.backward(paddle.to_tensor(result["dloss"]))
    return {**result, "loss": loss.numpy(), "dlogits": x.grad.numpy()}


def _ours(
    case: dict[str, Any],
    settings: dict[str, Any],
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    dloss: np.ndarray | None,
) -> dict[str, np.ndarray]:
    logits, labels, weight = arrays
    if case["api"] == "layer":
        tensor = None if weight is None else paddle.to_tensor(weight)
        config = onnxloss.from_paddle(paddle.nn.CrossEntropyLoss(**settings, weight=tensor))
    elif case["api"] == "function":
        config = onnxloss.from_paddle(_CROSS_ENTROPY, **settings, weight=weight)
    else:
        config = onnxloss.from_paddle(_WITH_SOFTMAX, **settings)
    sizes = tuple(f"d{dim}" for dim in range(logits.ndim))
    if case["static_shape"]:
        shapes = logits.shape, labels.shape
    elif labels.ndim == logits.ndim:
        shapes = (
            sizes,
            tuple(1 if size == 1 else f"l{dim}" for dim, size in enumerate(labels.shape)),
        )
    else:
        shapes = sizes, tuple(f"l{dim}" for dim in range(labels.ndim))
    model = onnxloss.export(
        config,
        logits=shapes[0],
        labels=shapes[1],
        dtype=case["dtype"],
        label_dtype=labels.dtype.name,
        gradient=True,
        inline=case["way"] == "inlined",
    )
    if dloss is None:
        # It stops before there is a loss: the shape of its gradient is of no interest.
        declared = next(value for value in model.graph.input if value.name == "dloss")
        dloss = np.ones((1,) * len(declared.type.tensor_type.shape.dim), np.float32)
    feeds = {"logits": logits, "labels": labels, "dloss": dloss}
    return run_model(model, feeds, library=case["way"] == "library")


@drawn()
@hypothesis.given(_configurations())
def test_loss_and_gradient_equal_paddle(case: dict[str, Any]) -> None:
    settings = _settings(case)
    if _is_weighted(case) and case["weight"] == "other dtype":
        soft = settings["soft_label"] or _is_smoothed(case)
        hypothesis.assume(len(case["shape"]) > 1 and not (soft and case["dtype"] == "float64"))
    one_class = case["shape"][case["axis"]] == 1
    hypothesis.assume(
        not (case["api"] == "with softmax" and one_class and case["labels"] == "dropped")
    )
    arrays = _arrays(case)
    try:
        theirs = _theirs(case, settings, *arrays)
    except (ValueError, IndexError, RuntimeError, OSError):
        with pytest.raises((onnxloss.LossError, *RUNTIME_ERRORS)):
            _ours(case, settings, arrays, None)
        hypothesis.event("refused by both")
        return
    if _is_silently_wrong(case, settings):
        with pytest.raises(onnxloss.LossError):
            _ours(case, settings, arrays, theirs["dloss"])
        hypothesis.event("refused by us: Paddle is silently wrong")
        return
    hypothesis.event("compared")
    ours = _ours(case, settings, arrays, theirs["dloss"])
    tolerance = _TOLERANCE[case["dtype"]]
    if _is_smoothed(case):
        tolerance = max(tolerance, 2e-7)
    if case["weight"] == "other dtype" and _is_weighted(case):
        tolerance = _TOLERANCE["float32"]
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].shape == theirs[name].shape, name
        np.testing.assert_allclose(
            ours[name], theirs[name], rtol=tolerance, atol=tolerance, err_msg=name
        )
    assert set(ours) == set(theirs) - {"dloss"}


def test_every_parameter_is_mapped() -> None:
    """A parameter that Paddle adds must be mapped or refused by name, never met in silence."""
    apis = {
        _CROSS_ENTROPY: paddle.nn.functional.cross_entropy,
        "paddle.nn.CrossEntropyLoss": paddle.nn.CrossEntropyLoss,
        _WITH_SOFTMAX: paddle.nn.functional.softmax_with_cross_entropy,
    }
    assert set(apis) == set(SETTINGS)
    for name, api in apis.items():
        parameters = inspect.signature(api).parameters
        assert set(parameters) - {"input", "logits", "label"} == set(SETTINGS[name]), name
        for setting, default in SETTINGS[name].items():
            assert parameters[setting].default == default, f"{name}: {setting}"


@pytest.mark.parametrize("way", WAYS)
def test_the_documented_example_with_weights(way: str) -> None:
    """The first example of paddle.nn.functional.cross_entropy: 5.35419278."""
    paddle.seed(99999)
    logits = paddle.rand((100, 200), dtype="float64")
    labels = paddle.randint(0, 200, shape=(100,), dtype="int64")
    weight = paddle.rand((200,), dtype="float64")
    loss = paddle.nn.CrossEntropyLoss(weight=weight, reduction="mean")
    assert _documented(loss, logits, labels, way) == "5.35419278"


@pytest.mark.parametrize("way", WAYS)
def test_the_documented_example_with_soft_labels(way: str) -> None:
    """The second example of paddle.nn.functional.cross_entropy: 1.12801195."""
    paddle.seed(99999)
    logits = paddle.uniform((4, 3), dtype="float64", min=0.1, max=1.0)
    labels = paddle.uniform((4, 3), dtype="float64", min=0.1, max=1.0)
    labels /= paddle.sum(labels, axis=-1, keepdim=True)
    loss = paddle.nn.CrossEntropyLoss(soft_label=True)
    assert _documented(loss, logits, labels, way) == "1.12801195"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("one_hot", [False, True])
def test_the_documented_example_with_smoothing(way: str, one_hot: bool) -> None:
    """The third example: 1.08317309 for indices and for their one-hot rows."""
    paddle.seed(99999)
    logits = paddle.uniform((4, 3), dtype="float64", min=0.1, max=1.0)
    labels = paddle.randint(low=0, high=3, shape=[4], dtype="int64")
    if one_hot:
        labels = paddle.nn.functional.one_hot(labels, 3).astype("float32")
    loss = paddle.nn.CrossEntropyLoss(label_smoothing=0.4)
    # Paddle holds the factor 0.4 as float32.
    assert abs(float(_documented(loss, logits, labels, way)) - 1.08317309) < 1e-7


def _documented(loss: Any, logits: Any, labels: Any, way: str) -> str:
    model = onnxloss.export(
        onnxloss.from_paddle(loss),
        logits=logits.shape,
        labels=labels.shape,
        dtype="float64",
        label_dtype=labels.numpy().dtype.name,
        inline=way == "inlined",
    )
    feeds = {"logits": logits.numpy(), "labels": labels.numpy()}
    return f"{run_model(model, feeds, library=way == 'library')['loss']:.8f}"
