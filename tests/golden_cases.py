# SPDX-License-Identifier: MIT
"""The frameworks' own numbers: inputs, loss and gradient of torch 2.13 and of onnxruntime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests import reference
from tests.cases import HARD, SOFT

_FOLDER = Path(__file__).parent / "golden"

NAMED_DIFFERENCES = {
    "torch-058": "torch multiplies the softmax of an ignored row of nan by 0: a nan gradient. "
    "The row does not count: 0.",
    "torch-060": "torch multiplies the weight 0 by the -inf at the target: nan. "
    "A term whose coefficient is 0 contributes nothing: 0.",
    "torch-090": "torch multiplies the probability 0 by the -inf of a masked class: nan. "
    "A term whose coefficient is 0 contributes nothing.",
}
"""Cases where an artefact of the framework's kernel is not reproduced: the id and the reason."""


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

    @property
    def kind(self) -> str:
        """What is to be asserted: "match", "named difference" or "error"."""
        if self.error is not None:
            return "error"
        return "named difference" if self.id in NAMED_DIFFERENCES else "match"


@cache
def load(framework: str) -> tuple[GoldenCase, ...]:
    """The cases of "torch", "onnx" or "paddle"."""
    own = (_FOLDER / f"{framework}.json").exists()
    table = json.loads((_FOLDER / f"{framework if own else 'cases'}.json").read_text())
    with np.load(_FOLDER / f"{framework if own else 'arrays'}.npz") as stored:
        return tuple(_case(row, stored) for row in table["cases"] if row["framework"] == framework)


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
