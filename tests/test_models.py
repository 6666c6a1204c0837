# SPDX-License-Identifier: MIT
"""The models of models/: as they are written, and as a backend would test itself with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from models.backend_tests import ROOT, files
from models.examples import EXAMPLES
from models.make_models import digits_classifier
from onnxloss.onnxscript_defs import CATALOGUE
from tests.runtime import run_model
from tests.tolerance import eps

FOLDERS = [example.folder for example in EXAMPLES]
UNITS = 16

NOT_IN_ONNX_REFERENCE = {
    "softmax_cross_entropy_loss_axis_last_none": (
        "onnx.reference's GatherElements takes a negative axis for a dimension to compare"
    ),
    "softmax_cross_entropy_loss_generic": (
        "onnx.reference's Equal compares no strings of a constant with those of an attribute"
    ),
}


def test_the_models_are_what_is_written() -> None:
    written = dict(files())
    found = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in ROOT.glob("*/**/*")
        if path.suffix in (".onnx", ".pb")
    }
    assert written.keys() == found.keys(), "run `make models`"
    assert [name for name, data in written.items() if found[name] != data] == []


def test_the_digits_classifier_is_what_is_written() -> None:
    made = digits_classifier().SerializeToString(deterministic=True)
    assert made == (ROOT / "digits_classifier.onnx").read_bytes()


def test_the_models_are_small_and_have_every_operator() -> None:
    paths = [path for path in ROOT.rglob("*") if path.suffix in (".onnx", ".pb")]
    assert sum(path.stat().st_size for path in paths) < 350_000
    operators = {op.name for spec in CATALOGUE for op in spec.ops}
    assert {example.op.name for example in EXAMPLES} == operators
    assert len(set(FOLDERS)) == len(FOLDERS)


def load(folder: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The model and its arrays, from their files alone."""
    model = onnx.load(ROOT / folder / "model.onnx")
    arrays = []
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        paths = [ROOT / folder / "test_data_set_0" / f"{kind}_{i}.pb" for i in range(len(values))]
        tensors = [onnx.load_tensor(path) for path in paths]
        assert [tensor.name for tensor in tensors] == [value.name for value in values]
        arrays.append({tensor.name: numpy_helper.to_array(tensor) for tensor in tensors})
    return model, arrays[0], arrays[1]


def assert_expected(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, truth in expected.items():
        assert (results[name].dtype, results[name].shape) == (truth.dtype, truth.shape)
        wide = truth.astype(np.float64)
        error = np.abs(results[name].astype(np.float64) - wide) / np.maximum(1.0, np.abs(wide))
        assert error.max() <= UNITS * eps(truth.dtype), name


@pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_onnxruntime_gives_what_is_expected(folder: str, library: bool) -> None:
    model, inputs, expected = load(folder)
    assert_expected(run_model(model, inputs, library=library), expected)


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(
            folder, marks=pytest.mark.xfail(reason=NOT_IN_ONNX_REFERENCE[folder], strict=True)
        )
        if folder in NOT_IN_ONNX_REFERENCE
        else folder
        for folder in FOLDERS
    ],
)
def test_onnx_reference_gives_what_is_expected(folder: str) -> None:
    model, inputs, expected = load(folder)
    results = ReferenceEvaluator(model).run(None, inputs)
    assert_expected(dict(zip(expected, results, strict=True)), expected)
