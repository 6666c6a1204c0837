# SPDX-License-Identifier: MIT
"""PyTorch's own samples for testing cross_entropy, by PyTorch and by the exported model."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
invocations = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations",
    reason="PyTorch's test tables need expecttest",
    exc_type=ImportError,
)

import onnxloss  # noqa: E402
from onnxloss.from_torch import tensor_to_array  # noqa: E402
from tests.runtime import WAYS, run_model  # noqa: E402

_API = "nn.functional.cross_entropy"
_DTYPES = {
    "float64": (torch.float64, 1e-12),
    "float32": (torch.float32, 2e-5),
    "float16": (torch.float16, 4e-3),
    "bfloat16": (torch.bfloat16, 3e-2),
}


def _samples(dtype: str) -> list:
    (operator,) = [operator for operator in invocations.op_db if operator.name == _API]
    return list(operator.sample_inputs("cpu", _DTYPES[dtype][0], requires_grad=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", _DTYPES)
def test_loss_and_gradient_equal_torch(dtype: str, way: str) -> None:
    tolerance = _DTYPES[dtype][1]
    for sample in _samples(dtype):
        (target,) = sample.args
        loss = torch.nn.functional.cross_entropy(sample.input, target, **sample.kwargs)
        dloss = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
        (gradient,) = torch.autograd.grad(loss, sample.input, dloss)

        config = onnxloss.from_torch(
            f"torch.{_API}",
            target="probabilities" if target.is_floating_point() else "indices",
            **sample.kwargs,
        )
        model = onnxloss.export(
            config,
            logits=tuple(sample.input.shape),
            dtype=dtype,
            gradient=True,
            inline=way == "inlined",
        )
        given = {"logits": sample.input, "labels": target, "dloss": dloss}
        feeds = {name: tensor_to_array(tensor) for name, tensor in given.items()}
        result = run_model(model, feeds, library=way == "library")
        for name, expected in (("loss", loss), ("dlogits", gradient)):
            array = tensor_to_array(expected)
            assert result[name].dtype == array.dtype
            np.testing.assert_allclose(
                result[name].astype(np.float64),
                array.astype(np.float64),
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} of {sample}",
            )


@pytest.mark.parametrize("dtype", _DTYPES)
def test_the_samples_are_of_every_kind(dtype: str) -> None:
    """Both kinds of targets, every setting that PyTorch samples, one to three inner axes."""
    samples = _samples(dtype)
    assert len(samples) >= 21
    assert {sample.args[0].is_floating_point() for sample in samples} == {False, True}
    assert {name for sample in samples for name in sample.kwargs} == {
        "ignore_index",
        "reduction",
        "weight",
    }
    assert {sample.input.ndim for sample in samples} == {2, 3, 4, 5}
