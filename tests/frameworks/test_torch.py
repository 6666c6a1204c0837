# SPDX-License-Identifier: MIT
"""PyTorch's own loss and autograd against the exported model, over random configurations.

Left out are the rows on which SEMANTICS differ by design: a nan row that is ignored, -inf under a
coefficient of 0, and float16 sums that overflow in PyTorch's accumulator.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import strategies as st  # noqa: E402

import onnxloss  # noqa: E402
from onnxloss.from_torch import SETTINGS  # noqa: E402
from tests.frameworks.examples import drawn  # noqa: E402
from tests.runtime import WAYS, run_model  # noqa: E402

_DTYPES = {
    "float64": (torch.float64, 1e-12),
    "float32": (torch.float32, 2e-5),
    "float16": (torch.float16, 4e-3),
    "bfloat16": (torch.bfloat16, 3e-2),
}
_SHAPES = ((3,), (2, 3), (1, 1), (0, 4), (5, 7), (4, 33), (2, 3, 4), (2, 5, 2, 3), (3, 2, 0))
_TRAITS = ("plain", "offset", "gap", "masked", "ignored", "all_ignored")


@st.composite
def _configurations(draw: st.DrawFn) -> dict:
    shape = draw(st.sampled_from(_SHAPES))
    return {
        "shape": shape,
        "target": draw(st.sampled_from(("indices", "probabilities"))),
        "dtype": draw(st.sampled_from(tuple(_DTYPES))),
        "trait": draw(st.sampled_from(_TRAITS)),
        "reduction": draw(st.sampled_from(("none", "mean", "sum"))),
        "label_smoothing": draw(st.sampled_from((0.0, 0.1, 1 / 3, 0.9, 1.0))),
        "ignore_index": draw(st.sampled_from((-100, -1, 0, 1, 255, 2**40))),
        "weight": draw(st.sampled_from((None, "random", "some zero"))),
        "module": draw(st.booleans()),
        "way": draw(st.sampled_from(WAYS)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def _tensors(case: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    rng = np.random.default_rng(case["seed"])
    shape, axis = case["shape"], 1 if len(case["shape"]) > 1 else 0
    classes = shape[axis]
    dtype, _ = _DTYPES[case["dtype"]]
    logits = rng.standard_normal(shape) * (8 if case["trait"] == "gap" else 1)
    logits += 64 if case["trait"] == "offset" else 0
    if case["target"] == "indices":
        # An index that is both ignored and legal must not be hit by a label that counts.
        labels = rng.integers(0, classes, shape[:axis] + shape[axis + 1 :])
        ignored = rng.random(labels.shape) < {"ignored": 0.4, "all_ignored": 1}.get(
            case["trait"], 0
        )
        target = torch.from_numpy(np.asarray(np.where(ignored, case["ignore_index"], labels)))
        if case["trait"] == "masked" and case["label_smoothing"] == 0 and classes > 1:
            mask = np.moveaxis(rng.random(shape) < 0.3, axis, -1)
            np.put_along_axis(mask, np.asarray(labels)[..., None], False, -1)
            logits = np.where(np.moveaxis(mask, -1, axis), -np.inf, logits)
    else:
        target = torch.from_numpy(rng.random(shape)).to(dtype)
    weight = None
    if case["weight"] is not None:
        weight = rng.random(classes) + 0.1
        if case["weight"] == "some zero":
            weight[rng.random(classes) < 0.3] = 0
        weight = torch.from_numpy(weight).to(dtype)
    return torch.from_numpy(np.asarray(logits)).to(dtype), target, weight


@drawn()
@hypothesis.given(_configurations())
def test_loss_and_gradient_equal_torch(case: dict) -> None:
    if case["target"] == "probabilities":
        hypothesis.assume(case["ignore_index"] < 0)
    logits, target, weight = _tensors(case)
    settings = {name: case[name] for name in ("reduction", "label_smoothing", "ignore_index")} | {
        "weight": weight
    }
    logits.requires_grad_()
    soft = case["target"] == "probabilities"
    target.requires_grad_(soft)
    # Class indices that PyTorch refuses are refused by us too, at run time.
    loss = torch.nn.functional.cross_entropy(logits, target, **settings)
    dloss = torch.from_numpy(
        np.asarray(np.random.default_rng(case["seed"]).uniform(0.5, 2, loss.shape))
    ).to(loss.dtype)
    loss.backward(dloss)

    source = torch.nn.CrossEntropyLoss(**settings) if case["module"] else None
    if source is None:
        config = onnxloss.from_torch(
            "torch.nn.functional.cross_entropy", target=case["target"], **settings
        )
    else:
        config = onnxloss.from_torch(source, target=case["target"])
    model = onnxloss.export(
        config,
        logits=case["shape"],
        dtype=case["dtype"],
        gradient=True,
        outputs=("loss", "dlabels") if soft else ("loss",),
        inline=case["way"] == "inlined",
    )
    feeds = {"logits": _numpy(logits), "labels": _numpy(target), "dloss": _numpy(dloss)}
    result = run_model(model, feeds, library=case["way"] == "library")
    tolerance = _DTYPES[case["dtype"]][1]
    assert result["loss"].dtype == _numpy(loss).dtype
    # Near a sum of n terms both round differently: the bound grows with what was summed.
    scale = max(1.0, float(np.abs(np.nan_to_num(_numpy(loss).astype(np.float64))).max(initial=0)))
    _assert_close(result["loss"], _numpy(loss), tolerance * scale)
    _assert_close(result["dlogits"], _numpy(logits.grad), tolerance)
    if soft:
        assert result["dlabels"].dtype == _numpy(target).dtype
        gaps = float(np.abs(_numpy(logits).astype(np.float64)).max(initial=1))
        _assert_close(result["dlabels"], _numpy(target.grad), tolerance * gaps)


def test_every_parameter_is_mapped() -> None:
    """A parameter that PyTorch adds must be mapped or refused by name, never met in silence."""
    function = inspect.signature(torch.nn.functional.cross_entropy).parameters
    module = inspect.signature(torch.nn.CrossEntropyLoss).parameters
    assert set(function) - {"input", "target"} == set(SETTINGS)
    assert set(module) == set(SETTINGS)
    for name, default in SETTINGS.items():
        assert function[name].default == module[name].default == default


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    from onnxloss.from_torch import tensor_to_array

    return tensor_to_array(tensor)


def _assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(
        ours.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance
    )
