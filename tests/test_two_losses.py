# SPDX-License-Identifier: MIT
"""Two differently configured losses of one operator in one model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from onnxloss.onnxscript_defs import DOMAIN
from tests.runtime import make_session
from tests.two_losses import PAIRS, Pair, feeds_of, model_of, truth_of

every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


@every_pair
@pytest.mark.parametrize("way", ["function body", "library", "inlined"])
def test_each_loss_keeps_its_own_settings(pair: Pair, way: str) -> None:
    model = model_of(pair, inline=way == "inlined")
    session = make_session(model, library=way == "library")
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, feeds_of(pair)), strict=True))
    for name, truth in truth_of(pair).items():
        np.testing.assert_allclose(outputs[name], truth, rtol=2e-6, atol=2e-6, err_msg=name)


@every_pair
def test_no_function_stands_twice(pair: Pair) -> None:
    """ONNX Runtime 1.19 runs the same body for both of two overloads, in silence."""
    model = model_of(pair)
    counts = Counter((function.domain, function.name) for function in model.functions)
    assert set(counts.values()) == {1}
    assert not any(function.overload for function in model.functions)
    assert {domain for domain, _ in counts} == {DOMAIN}
