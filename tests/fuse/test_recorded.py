# SPDX-License-Identifier: MIT
"""`onnxloss.fuse` on what torch.onnx, tf2onnx, paddle2onnx and ORT training really wrote."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxloss
from onnxloss.onnxscript_defs import DOMAIN
from tests.fuse.fused import arrays_of, losses_of, settings_of
from tests.fuse.outcomes import FUSED, LEFT
from tests.fuse.recording import FOLDER
from tests.runtime import run_model
from tests.tolerance import eps


def load(name: str) -> onnx.ModelProto:
    return onnx.load(FOLDER / f"{name}.onnx")


def test_every_recorded_model_has_an_outcome() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*FUSED, *LEFT}


@pytest.mark.parametrize("name", FUSED)
def test_the_loss_is_replaced(name: str) -> None:
    original = load(name)
    given = original.SerializeToString()
    fused = onnxloss.fuse(original)
    assert losses_of(fused) == [FUSED[name]]
    assert [made.domain for made in fused.functions] == [DOMAIN]
    assert original.SerializeToString() == given
    for left, right in ((original.graph.input, fused.graph.input),):
        assert [value.name for value in left] == [value.name for value in right]
    names = [[value.name for value in model.graph.output] for model in (original, fused)]
    assert names[0] == names[1]


# What stock ONNX Runtime can run as a whole; the training graphs run in test_ort_training.
WHOLE = [name for name in FUSED if not name.endswith("_training")]


@pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_model_gives_the_same(name: str, library: bool) -> None:
    original = load(name)
    arrays = arrays_of(original)
    expected = run_model(original, arrays)
    results = run_model(onnxloss.fuse(original), arrays, library=library)
    for output, values in expected.items():
        atol = 32 * eps(values.dtype)
        assert results[output].shape == values.shape
        np.testing.assert_allclose(results[output], values, rtol=atol, atol=atol)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_alone_is_named(name: str) -> None:
    with pytest.raises(onnxloss.LossError, match=LEFT[name]):
        onnxloss.fuse(load(name))


OF_PROBABILITIES = [name for name in FUSED if "keras" in name and "probabilities" in name]


@pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_certain_probabilities_are_clipped_as_before(name: str, library: bool) -> None:
    original = load(name)
    arrays = arrays_of(original)
    arrays["x"] = np.eye(arrays["x"].shape[-1], dtype=np.float32)[arrays["x"].argmax(-1)]
    (expected,) = run_model(original, arrays).values()
    (result,) = run_model(onnxloss.fuse(original), arrays, library=library).values()
    assert expected.max() > 1
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_keras_losses_of_probabilities_keep_no_logarithm(name: str) -> None:
    nodes = {made.op_type: made for made in onnxloss.fuse(load(name)).graph.node}
    assert not {"Log", "Min", "Max"} & {*nodes}
    settings = settings_of(nodes[FUSED[name][0]])
    assert settings["from_logits"] == 0
    assert settings["normalize"] == (b"after_clip" if "sparse" in name else b"before_clip")


def test_a_gap_of_200_is_right_after_fusing() -> None:
    """tf2onnx divides sums of exponentials: inf where the loss is 200."""
    original = load("tf2onnx-sparse")
    arrays = {
        "x": np.array([[200, 0, 0, 0, 0]], np.float32),
        "y": np.array([1]),
    }
    (before,) = run_model(original, arrays).values()
    (after,) = run_model(onnxloss.fuse(original), arrays).values()
    assert before.tolist() == [np.inf]
    assert after.tolist() == [200]
