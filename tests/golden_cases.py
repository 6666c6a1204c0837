# SPDX-License-Identifier: MIT
"""The frameworks' own numbers: inputs, loss and gradient of torch 2.13 and of onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxloss
from tests import reference
from tests.cases import HARD, SOFT
from tests.cuda_models import EVERY_WAY, run_way
from tests.runtime import WAYS, dtype_of

_FOLDER = Path(__file__).parent / "golden"

ways = pytest.mark.parametrize("way", WAYS)
every_way = pytest.mark.parametrize("way", EVERY_WAY)


@dataclass(frozen=True)
class GoldenCase:
    """A configuration, its inputs and what the framework answered."""

    id: str
    name: str
    framework: str
    api: str
    kwargs: dict[str, Any]
    arrays: dict[str, np.ndarray]
    error: str | None
    rtol: float
    atol: float

    @property
    def loss(self) -> str:
        """The loss that the labels ask for."""
        return SOFT if self.arrays["labels"].dtype.kind not in "iu" else HARD


@cache
def load(framework: str) -> tuple[GoldenCase, ...]:
    """The cases of "torch", "paddle", "tf", "onnx" or "sampled"."""
    own = (_FOLDER / f"{framework}.json").exists()
    table = json.loads((_FOLDER / f"{framework if own else 'cases'}.json").read_text())
    with np.load(_FOLDER / f"{framework if own else 'arrays'}.npz") as stored:
        return tuple(_case(row, stored) for row in table["cases"] if row["framework"] == framework)


def kind_of(case: GoldenCase, exceptions: Mapping[str, Collection[str]]) -> str:
    """What is to be asserted: a kind of `exceptions` that has the case's id, "error" or "match"."""
    plain = "match" if case.error is None else "error"
    return next((kind for kind, ids in exceptions.items() if case.id in ids), plain)


def of_kind(
    cases: Iterable[GoldenCase], kind: str, exceptions: Mapping[str, Collection[str]]
) -> pytest.MarkDecorator:
    """Parametrizes a test with the cases of a kind."""
    chosen = [case for case in cases if kind_of(case, exceptions) == kind]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case.id}-{case.name}")


def export(
    case: GoldenCase, config: onnxloss.LossConfig, *, inline: bool, **settings: Any
) -> onnx.ModelProto:
    """The model of a case's configuration and shapes, with its gradient."""
    logits, labels = case.arrays["logits"], case.arrays["labels"]
    return onnxloss.export(
        config,
        logits=logits.shape,
        labels=labels.shape,
        dtype=logits.dtype.name,
        label_dtype=labels.dtype.name,
        gradient=True,
        inline=inline,
        **settings,
    )


def run(
    case: GoldenCase, model: onnx.ModelProto, way: str, **more: np.ndarray
) -> dict[str, np.ndarray]:
    """The model's outputs for the case's arrays, and `more` beside them."""
    feeds = {"logits": case.arrays["logits"], "labels": case.arrays["labels"], **more}
    # Where there is no upstream gradient it is of no interest, but an input.
    loss = case.arrays.get("loss", np.zeros(()))
    feeds["dloss"] = case.arrays.get("dloss", np.ones(loss.shape, dtype_of(model, "dloss")))
    return run_way(model, feeds, way)


def assert_matches(
    outputs: Mapping[str, np.ndarray],
    case: GoldenCase,
    names: Collection[str] = ("loss", "dlogits"),
) -> None:
    """Asserts dtype, shape and values of the framework's outputs of these names."""
    for name in names:
        assert outputs[name].dtype == case.arrays[name].dtype
        assert outputs[name].shape == case.arrays[name].shape
        assert_close(outputs[name], case.arrays[name], case)


def assert_close(result: np.ndarray, expected: np.ndarray, case: GoldenCase) -> None:
    """Asserts the case's own tolerance, and the same kind where it is not finite."""
    # A loss beyond the dtype is inf there: a float64 result is rounded before it is compared.
    with np.errstate(over="ignore"):
        rounded = result.astype(expected.dtype).astype(np.float64)
    np.testing.assert_allclose(rounded, expected.astype(np.float64), rtol=case.rtol, atol=case.atol)


def formula(case: GoldenCase) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient from the definition, in float64."""
    settings = dict(case.kwargs)
    if case.loss == SOFT:
        settings.pop("ignore_index", None)
    return getattr(reference, case.loss)(
        case.arrays["logits"],
        case.arrays["labels"],
        case.arrays.get("dloss", 1.0),
        case.arrays.get("weight"),
        axis=min(1, case.arrays["logits"].ndim - 1),
        **settings,
    )


def _case(row: dict[str, Any], stored: Any) -> GoldenCase:
    tolerance = row.get("tolerance", {"rtol": 0.0, "atol": 0.0})
    return GoldenCase(
        id=row["id"],
        name=row["name"],
        framework=row["framework"],
        api=row["api"],
        kwargs=row["kwargs"],
        arrays={name: _array(entry, stored) for name, entry in row["arrays"].items()},
        error=row["error"]["message"] if row["expect"] == "error" else None,
        rtol=tolerance["rtol"],
        atol=tolerance["atol"],
    )


def _array(entry: dict[str, Any], stored: Any) -> np.ndarray:
    array = stored[entry["key"]]
    # numpy's format has no bfloat16: it is stored as its bits.
    return array.view(ml_dtypes.bfloat16) if entry["dtype"] == "bfloat16" else array
