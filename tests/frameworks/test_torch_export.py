# SPDX-License-Identifier: MIT
"""onnxloss.torch.export: modules that call cross_entropy, where torch.onnx breaks too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch._higher_order_ops.while_loop import while_loop  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import onnxloss  # noqa: E402
from onnxloss import torch as onnxloss_torch  # noqa: E402
from onnxloss.from_torch import tensor_to_array  # noqa: E402
from tests.runtime import run_model  # noqa: E402

_CONFIGURATIONS = {
    "smoothing": ((5, 4), "indices", {"label_smoothing": 0.1}),
    "smoothing_weighted": ((5, 4), "indices", {"label_smoothing": 0.2, "weight": "random"}),
    "ignored": ((5, 4), "indices", {"ignore_index": 1, "reduction": "sum"}),
    "probabilities": ((5, 4), "probabilities", {}),
    "probabilities_weighted": ((5, 4), "probabilities", {"weight": "random", "reduction": "none"}),
    "probabilities_float64_weight": ((5, 4), "probabilities", {"weight": "float64"}),
    "probabilities_int64_weight": ((5, 4), "probabilities", {"weight": "int64"}),
    "probabilities_bool_weight": ((5, 4), "probabilities", {"weight": "bool"}),
    "unbatched": ((4,), "indices", {}),
    "empty": ((0, 4), "indices", {"reduction": "sum"}),
    "kdim": ((2, 3, 4), "indices", {"reduction": "none", "label_smoothing": 0.3}),
    "bfloat16": ((5, 4), "bfloat16", {"reduction": "none"}),
    "float16": ((5, 4), "float16", {"label_smoothing": 0.1}),
}
_TOLERANCES = {"float16": 2e-3, "bfloat16": 1e-2}

# torch.onnx's own remarks, on training mode and on what it will change.
pytestmark = pytest.mark.filterwarnings("ignore")


class _Loss(torch.nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels, **self.settings)


class _Classifier(torch.nn.Module):
    """Two losses of different settings behind one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)
        self.loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 1.0]))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.layer(x)
        smooth = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        return self.loss(logits, labels) + smooth


class _Branch(torch.nn.Module):
    """A loss in one branch alone."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.cond(
            logits.sum() > 0,
            lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
            lambda logits, labels: logits.sum() * 0.0,
            (logits, labels),
        )


class _Branches(_Branch):
    """Losses of other settings in a branch of a branch and outside, where some have weights."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weight = torch.tensor([1.0, 2.0, 3.0])
        inner = super().forward
        chosen = torch.cond(
            logits.sum() > -3,
            lambda logits, labels: inner(logits, labels) + F.cross_entropy(logits, labels, weight),
            lambda logits, labels: F.cross_entropy(logits, labels, weight, ignore_index=1),
            (logits, labels),
        )
        return chosen + F.cross_entropy(logits, labels)


class _Loop(torch.nn.Module):
    """A loss in the body of a loop, and another one after it."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        def body(turn: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return turn + 1, total + F.cross_entropy(logits * total, labels, label_smoothing=0.1)

        start = (torch.tensor(0), torch.tensor(1.0))
        _, total = while_loop(lambda turn, total: turn < 3, body, start)
        return total + F.cross_entropy(logits, labels)


def _export(module: torch.nn.Module, args: tuple, **options: Any) -> onnx.ModelProto:
    return onnxloss_torch.export(module.eval(), args, verbose=False, **options)


@pytest.mark.parametrize("library", [False, True], ids=["body", "library"])
@pytest.mark.parametrize("name", _CONFIGURATIONS)
def test_loss_equals_torch(name: str, library: bool) -> None:
    shape, kind, settings = _CONFIGURATIONS[name]
    torch.manual_seed(0)
    axis = 1 if len(shape) > 1 else 0
    dtype = getattr(torch, kind) if kind in _TOLERANCES else torch.float32
    logits = torch.randn(shape).to(dtype)
    labels = torch.randint(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    if kind == "probabilities":
        labels = torch.rand(shape)
    if "weight" in settings:
        kind = dtype if settings["weight"] == "random" else getattr(torch, settings["weight"])
        settings = {**settings, "weight": (3 * torch.rand(shape[axis])).to(kind)}
    module = _Loss(settings)

    model = _export(module, (logits, labels))
    assert [node.domain for node in model.graph.node if node.op_type.endswith("Loss")] == [
        "onnxloss"
    ]
    feeds = dict(zip(("logits", "labels"), map(tensor_to_array, (logits, labels)), strict=True))
    (loss,) = run_model(model, feeds, library=library).values()
    expected = tensor_to_array(module(logits, labels))
    assert loss.dtype == expected.dtype
    np.testing.assert_allclose(
        loss.astype(np.float64), expected.astype(np.float64), rtol=_TOLERANCES.get(kind, 1e-6)
    )


@pytest.mark.parametrize("library", [False, True], ids=["body", "library"])
def test_two_losses_in_one_module_with_a_dynamic_batch(library: bool) -> None:
    torch.manual_seed(0)
    module = _Classifier()
    batch = torch.export.Dim("batch")
    example = (torch.randn(6, 8), torch.randint(0, 4, (6,)))
    model = _export(module, example, dynamic_shapes=({0: batch}, {0: batch}))
    x, labels = torch.randn(11, 8), torch.randint(0, 4, (11,))
    (loss,) = run_model(model, {"x": x.numpy(), "labels": labels.numpy()}, library=library).values()
    np.testing.assert_allclose(loss, module(x, labels).detach().numpy(), rtol=1e-6)


@pytest.mark.filterwarnings("error:torch.export")
@pytest.mark.parametrize(
    "module", [_Branch(), _Branches(), _Loop()], ids=lambda module: type(module).__name__
)
def test_losses_in_branches_and_loops(module: torch.nn.Module) -> None:
    labels = torch.tensor([2, 0, 1, 1])
    model = _export(module, (torch.ones(4, 3), labels))
    torch.manual_seed(0)
    for shift in (1.0, -0.1, -1.0):
        logits = torch.randn(4, 3)
        logits += shift - logits.mean()
        feeds = {"logits": logits.numpy(), "labels": labels.numpy()}
        for library in (False, True):
            (loss,) = run_model(model, feeds, library=library).values()
            np.testing.assert_allclose(loss, module(logits, labels), rtol=1e-5, err_msg=str(shift))


class _Named(torch.nn.Module):
    """Parameter, buffer, input and output are called as torch.onnx calls the operators' values."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul = torch.nn.Parameter(torch.randn(8, 4))
        self.cross_entropy_loss = torch.nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))

    def forward(self, view: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = view.view(-1, 8) @ self.matmul + self.cross_entropy_loss - self.mean
        return F.cross_entropy(logits, labels), logits.mean()


def test_names_of_parameters_and_inputs_are_kept() -> None:
    module, example = _Named(), (torch.randn(3, 8), torch.tensor([0, 1, 2]))
    model = _export(module, example)
    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert {tensor.name for tensor in model.graph.initializer} == names
    feeds = {"view": example[0].numpy(), "labels": example[1].numpy()}
    results = run_model(model, feeds, library=False).values()
    for ours, theirs in zip(results, module(*example), strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5)
    with pytest.raises(onnxloss.LossError, match=r"output_names is \['mean'\]; expected one at"):
        _export(module, example, output_names=["mean"])


class _Twice(torch.nn.Module):
    """The loss is an output twice, and another one an output of another dtype."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss = F.cross_entropy(logits, labels)
        return loss, loss, F.cross_entropy(logits.half(), labels, reduction="none")


def test_a_loss_that_is_an_output_is_optimized() -> None:
    """torch.onnx's optimizer takes the type of a custom operator's result away."""
    module, example = _Twice(), (torch.randn(3, 4), torch.tensor([0, 1, 2]))
    model = _export(module, example, optimize=True)
    feeds = {"logits": example[0].numpy(), "labels": example[1].numpy()}
    results = run_model(model, feeds, library=False).values()
    for ours, theirs in zip(results, module(*example), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_a_node_says_what_it_computes() -> None:
    args = (torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0]))
    model = _export(_Loss({"label_smoothing": 0.1}), args)
    (node,) = (node for node in model.graph.node if node.domain == "onnxloss")
    assert node.doc_string.splitlines()[1:] == [
        "From torch.nn.functional.cross_entropy.",
        "label_smoothing = 0.1",
    ]


def test_what_cannot_be_honoured_is_refused() -> None:
    args = (torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0]))
    with pytest.raises(onnxloss.LossError, match="opset_version is 18; expected 19 or newer"):
        _export(_Loss({}), args, opset_version=18)
    with pytest.raises(onnxloss.LossError, match="custom_translation_table or dynamo is given"):
        _export(_Loss({}), args, dynamo=False)
    with pytest.raises(onnxloss.LossError, match="export_params is False; expected True: change"):
        _export(_Loss({}), args, export_params=False)
    with pytest.raises(onnxloss.LossError, match="keep_initializers_as_inputs is True; expected F"):
        _export(_Loss({}), args, keep_initializers_as_inputs=True)
    with pytest.raises(onnxloss.LossError, match="opset_version is 40; expected one that PyTorch"):
        _export(_Classifier(), (torch.randn(5, 8), args[1]), opset_version=40)
    with pytest.raises(onnxloss.LossError, match=f"ignore_index is {-(2**63)}; expected a greater"):
        _export(_Loss({"ignore_index": -(2**63)}), args)
    weights = torch.ones(4, dtype=torch.float64)
    with pytest.raises(onnxloss.LossError, match='dtype of weight is "float64"; expected float32'):
        _export(_Loss({"weight": weights}), args)


class _Pool(torch.nn.Module):
    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.avg_pool2d(x, 2, divisor_override=3).mean((2, 3)), labels)


def test_a_divisor_of_a_pooling_is_refused() -> None:
    """torch.onnx drops it."""
    with pytest.raises(onnxloss.LossError, match="avg_pool2d: divisor_override is 3; expected No"):
        _export(_Pool(), (torch.randn(2, 3, 4, 4), torch.tensor([0, 1])))


def test_uint8_labels_are_refused_as_by_torch_export() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0], dtype=torch.uint8)
    with pytest.raises(onnxloss.LossError, match='dtype of the labels is "uint8"; expected int64'):
        _export(_Loss({}), (torch.randn(5, 4), labels))


def test_int32_labels_are_refused_as_by_torch() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0], dtype=torch.int32)
    with pytest.raises(onnxloss.LossError, match=r'label_dtype is "int32"; .*PyTorch takes int64'):
        _export(_Loss({}), (torch.randn(5, 4), labels))


@pytest.mark.filterwarnings("default:torch.export")
def test_a_module_without_a_loss_is_exported_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="the module calls no cross_entropy"):
        model = onnxloss_torch.export(torch.nn.Linear(3, 4), torch.ones(2, 3), verbose=False)
    assert [node.op_type for node in model.graph.node] == ["Gemm"]


def test_file_is_written(tmp_path) -> None:
    path = tmp_path / "loss.onnx"
    args = (torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0]))
    model = onnxloss_torch.export(_Loss({"label_smoothing": 0.1}).eval(), args, path)
    assert onnx.load(path) == model


def test_weights_are_written_beside_the_file(tmp_path) -> None:
    path, example = tmp_path / "loss.onnx", (torch.randn(3, 64), torch.tensor([0, 1, 2]))
    module = _Classifier()
    module.layer = torch.nn.Linear(64, 4)
    model = _export(module, example, f=path, external_data=True)
    (tensor,) = (t for t in model.graph.initializer if t.name == "layer.weight")
    (there,) = (t for t in onnx.load(path).graph.initializer if t.name == "layer.weight")
    assert tensor.raw_data == there.raw_data
    assert tensor.raw_data in (tmp_path / "loss.onnx.data").read_bytes()
    with pytest.raises(onnxloss.LossError, match="f is None; expected the file that the external"):
        _export(module, example, external_data=True)
