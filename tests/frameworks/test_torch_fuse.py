# SPDX-License-Identifier: MIT
"""onnxloss.fuse on what torch.onnx writes today, against PyTorch itself."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.fuse.fused import assert_outcome  # noqa: E402
from tests.fuse.make_torch import EXPORTERS, FORMS, arrays, make  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.onnx's own remarks


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_fused_model_gives_torchs_loss(exporter: str, name: str) -> None:
    model, form = make(name, dynamo=EXPORTERS[exporter]), FORMS[name]
    x, y = arrays(form, seed=7)
    expected = form.loss(x, y)
    expected = expected[0] if isinstance(expected, tuple) else expected
    tolerance = 2e-3 if name == "float16" else 1e-5
    key = f"{exporter}-{name}"
    assert_outcome(key, model, x.numpy(), y.numpy(), expected.numpy(), tolerance)
