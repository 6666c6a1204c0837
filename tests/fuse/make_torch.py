# SPDX-License-Identifier: MIT
"""Losses through both of torch.onnx's exporters: `python -m tests.fuse.make_torch`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import torch
from torch.nn import functional as F

from tests.fuse.recording import record

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CLASSES = 5
WEIGHT = torch.tensor([0.25, 0.5, 1.0, 2.0, 0.75])


@dataclass(frozen=True)
class Form:
    """A loss, the shape of its logits, what its labels are, and whether the batch is dynamic."""

    loss: Loss
    shape: tuple[int, ...] = (6, CLASSES)
    axis: int = 1
    probabilities: bool = False
    dynamic: bool = True


def _picked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -F.log_softmax(x, -1).gather(1, y.unsqueeze(1)).squeeze(1).mean()


def _indexed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -F.log_softmax(x, -1)[torch.arange(x.shape[0]), y].mean()


def _one_hot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -(F.one_hot(y, CLASSES).float() * F.log_softmax(x, -1)).sum(-1).mean()


def _by_token(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -F.log_softmax(x, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _of_lse(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (torch.logsumexp(x, -1) - x.gather(1, y.unsqueeze(1)).squeeze(1)).mean()


def _language_model(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x[:, :-1].reshape(-1, CLASSES), y[:, 1:].reshape(-1))


def _masked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    counts = y != 0
    return (F.cross_entropy(x, y, reduction="none") * counts).sum() / counts.sum()


def _with_log_p(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_p = F.log_softmax(x, -1)
    return -log_p.gather(1, y.unsqueeze(1)).mean(), log_p


FORMS = {
    "cross_entropy": Form(F.cross_entropy),
    "cross_entropy_weighted": Form(
        lambda x, y: F.cross_entropy(x, y, WEIGHT, ignore_index=1, reduction="sum")
    ),
    "cross_entropy_kdim": Form(
        lambda x, y: F.cross_entropy(x, y, reduction="none"), (2, CLASSES, 3)
    ),
    "cross_entropy_language_model": Form(_language_model, (2, 4, CLASSES), axis=2),
    "cross_entropy_masked": Form(_masked),
    "cross_entropy_probabilities": Form(F.cross_entropy, probabilities=True),
    "nll": Form(lambda x, y: F.nll_loss(F.log_softmax(x, 1), y)),
    "nll_weighted": Form(lambda x, y: F.nll_loss(F.log_softmax(x, 1), y, WEIGHT, ignore_index=2)),
    "nll_3d": Form(
        lambda x, y: F.nll_loss(F.log_softmax(x, 1), y, reduction="none"), (2, CLASSES, 3)
    ),
    "nll_3d_static": Form(
        lambda x, y: F.nll_loss(F.log_softmax(x, 1), y, reduction="none"),
        (2, CLASSES, 3),
        dynamic=False,
    ),
    "nll_4d": Form(
        lambda x, y: F.nll_loss(F.log_softmax(x, 1), y, reduction="none"), (2, CLASSES, 3, 2)
    ),
    "gather": Form(_picked),
    "gather_tokens": Form(_by_token, (2, 3, CLASSES), axis=2),
    "index": Form(_indexed),
    "index_static": Form(_indexed, dynamic=False),
    "one_hot": Form(_one_hot),
    "lse": Form(_of_lse),
    "log_of_softmax": Form(
        lambda x, y: -(y * torch.softmax(x, -1).log()).sum(-1).mean(), probabilities=True
    ),
    "probabilities": Form(
        lambda x, y: -(y * F.log_softmax(x, -1)).sum(-1).mean(), probabilities=True
    ),
    "float16": Form(lambda x, y: F.cross_entropy(x.half(), y)),
    "log_p_too": Form(_with_log_p),
}


class Module(torch.nn.Module):
    """A loss as a module."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self._loss = loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return self._loss(x, y)


def arrays(form: Form, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels."""
    torch.manual_seed(seed)
    shape = form.shape
    if form.probabilities:
        return torch.randn(shape), torch.softmax(torch.randn(shape), form.axis)
    sizes = shape[: form.axis] + shape[form.axis + 1 :]
    return torch.randn(shape), torch.randint(0, CLASSES, sizes)


def make(name: str, *, dynamo: bool) -> onnx.ModelProto:
    """The model of a form, with a dynamic batch."""
    form = FORMS[name]
    module, args = Module(form.loss).eval(), arrays(form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch")
            sizes = {"dynamic_shapes": ({0: batch}, {0: batch})} if form.dynamic else {}
            program = torch.onnx.export(module, args, dynamo=True, verbose=False, **sizes)
            return program.model_proto
        buffer = io.BytesIO()
        sizes = {"dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}} if form.dynamic else {}
        torch.onnx.export(module, args, buffer, dynamo=False, input_names=["x", "y"], **sizes)
        return onnx.load_from_string(buffer.getvalue())


EXPORTERS = {"torch_dynamo": True, "torch_script": False}

if __name__ == "__main__":
    for exporter, dynamo in EXPORTERS.items():
        record(exporter, FORMS, lambda name, dynamo=dynamo: make(name, dynamo=dynamo))
