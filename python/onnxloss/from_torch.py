# SPDX-License-Identifier: MIT
"""PyTorch's cross entropy as a LossConfig."""

from __future__ import annotations

from typing import Any

import numpy as np

from .apis import beyond, completed, integer, path_of, settings_of, smoothing_factor
from .config import NO_IGNORED_LABEL, LossConfig, Refusal
from .errors import LossError, expected

_FUNCTION = "torch.nn.functional.cross_entropy"
_MODULE = "torch.nn.CrossEntropyLoss"
_OBJECTS = {"torch.nn.modules.loss.CrossEntropyLoss": _MODULE}
SETTINGS: dict[str, Any] = {
    "weight": None,
    "size_average": None,
    "ignore_index": -100,
    "reduce": None,
    "reduction": "mean",
    "label_smoothing": 0.0,
}
"""Every parameter of both APIs besides input and target, with PyTorch's default."""


def from_torch(
    loss: Any,
    *,
    target: str = "indices",
    z_loss: float = 0.0,
    logit_softcap: float = 0.0,
    **settings: Any,
) -> LossConfig:
    """The configuration of a PyTorch loss, with the semantics of torch 2.13.

    Args:
        loss: A `torch.nn.CrossEntropyLoss` instance, or the name of the API as a string:
            "torch.nn.functional.cross_entropy" or "torch.nn.CrossEntropyLoss". With a name,
            PyTorch need not be installed.
        target: "indices" for class indices, "probabilities" for a target of the logits' shape.
        z_loss: Factor of lse^2 that is added to each position's loss; no framework has it.
        logit_softcap: Above 0, logits x become cap * tanh(x / cap) first; no framework has it.
        **settings: With a name, that API's own arguments: weight, ignore_index, reduction,
            label_smoothing, size_average, reduce.

    Returns:
        The configuration. Class axis 1, or 0 for unbatched logits `(C,)`; the loss has the
        logits' dtype.

    Raises:
        LossError: A loss or setting that is not known, or that PyTorch itself refuses.

    Example:
        >>> config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.1)
        >>> config.op
        'SoftmaxCrossEntropyLoss'
    """
    if target not in ("indices", "probabilities"):
        raise expected("from_torch", "target", target, '"indices" or "probabilities"')
    api = loss if isinstance(loss, str) else _OBJECTS.get(path_of(loss), path_of(loss))
    if api not in (_FUNCTION, _MODULE):
        raise expected("from_torch", "loss", api, f'"{_FUNCTION}" or "{_MODULE}"')
    if not isinstance(loss, str) and not isinstance(loss, type) and api == _MODULE:
        settings = settings_of("from_torch", loss, SETTINGS, settings)
    values = completed("from_torch", api, SETTINGS, settings)

    attributes = {
        "axis": 1,
        "reduction": _reduction(values),
        "label_smoothing": smoothing_factor("from_torch", "PyTorch", values["label_smoothing"]),
    }
    ignore_index = integer("from_torch", "ignore_index", values["ignore_index"])
    weight = tensor_to_array(values["weight"])
    refused: dict[Refusal, str] = {}
    if target == "indices":
        if ignore_index == NO_IGNORED_LABEL:
            allowed = "a greater integer: the operators take it for no ignored label"
            raise expected("from_torch", "ignore_index", ignore_index, allowed)
        attributes["ignore_index"] = ignore_index
        smoothed = bool(attributes["label_smoothing"])
        refused = _refused(weighted_and_smoothed=weight is not None and smoothed)
    elif ignore_index >= 0:
        raise LossError(
            f"from_torch: ignore_index is {ignore_index}; expected none with probabilities, which "
            "PyTorch cannot ignore: give those positions a row of zeros instead."
        )
    elif isinstance(weight, np.ndarray) and weight.dtype.kind in "biu":
        # PyTorch promotes them to the dtype of the others, as it does numbers.
        weight = weight.tolist()
    config = LossConfig(
        "SoftmaxCrossEntropyLoss" if target == "indices" else "SoftLabelCrossEntropyLoss",
        attributes,
        class_weights=weight,
        promote="all" if target == "probabilities" else "nothing",
        source=api,
        refused=refused,
    )
    return beyond(config, z_loss, logit_softcap)


def _refused(*, weighted_and_smoothed: bool) -> dict[Refusal, str]:
    """The indices that PyTorch does not take, with the reasons."""
    cast = "cast the labels to int64"
    refused: dict[Refusal, str] = {
        "int32 labels": f"PyTorch takes int64 and uint8 alone; {cast}",
        "uint8 labels of many axes": f"PyTorch takes uint8 labels for logits (N, C) alone; {cast}",
    }
    if weighted_and_smoothed:
        refused["uint8 labels"] = f"PyTorch takes none with weight and label_smoothing; {cast}"
    return refused


def _reduction(values: dict[str, Any]) -> Any:
    """`size_average` and `reduce`, deprecated in PyTorch, override `reduction`."""
    size_average, reduce = values["size_average"], values["reduce"]
    if size_average is not None or reduce is not None:
        # PyTorch tests their truth: 0 is False.
        if reduce is not None and not reduce:
            return "none"
        return "sum" if size_average is not None and not size_average else "mean"
    return "mean" if values["reduction"] == "elementwise_mean" else values["reduction"]


def tensor_to_array(weight: Any) -> Any:
    """A tensor's array; numpy knows no bfloat16, whose bits go through int16."""
    if not hasattr(weight, "detach"):
        return weight
    import ml_dtypes
    import torch

    tensor = weight.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
