# SPDX-License-Identifier: MIT
"""Backward operators of PyTorch in terms of those that torch.onnx translates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, get_decompositions

from .errors import LossError

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for make_fx."""
    others = [aten.native_batch_norm, aten._native_batch_norm_legit]
    return {
        **core_aten_decompositions(),
        **get_decompositions(others),
        aten.convolution_backward.default: _convolution_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool2d_backward,
        aten.avg_pool2d_backward.default: _avg_pool2d_backward,
        aten.unfold_backward.default: _unfold_backward,
        aten.empty_like.default: _empty_like,
        aten.bernoulli_.float: _bernoulli,
    }


def _convolution_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """aten::convolution_backward as convolutions; the names are those of its schema."""
    spatial = range(2, weight.dim())
    zeros = [0] * len(spatial)
    by_input = by_weight = by_bias = None
    if output_mask[0] and transposed:
        by_input = aten.convolution(
            grad, weight, None, stride, padding, dilation, False, zeros, groups
        )
    elif output_mask[0]:
        reached = [
            (grad.shape[dim] - 1) * s - 2 * p + d * (weight.shape[dim] - 1) + 1
            for dim, s, p, d in zip(spatial, stride, padding, dilation, strict=True)
        ]
        beyond = [input.shape[dim] - size for dim, size in zip(spatial, reached, strict=True)]
        by_input = aten.convolution(
            grad, weight, None, stride, padding, dilation, True, beyond, groups
        )
    if output_mask[1]:
        # Correlation over the batch: channels take its place, and a step of the kernel is what
        # was its dilation.
        large, small = (grad, input) if transposed else (input, grad)
        images = large.unflatten(1, (groups, -1)).permute(2, 1, 0, *(dim + 1 for dim in spatial))
        kernels = small.unflatten(1, (groups, -1)).permute(1, 2, 0, *(dim + 1 for dim in spatial))
        product = aten.convolution(
            images.flatten(1, 2),
            kernels.flatten(0, 1),
            None,
            dilation,
            padding,
            stride,
            False,
            zeros,
            groups,
        )
        # Where the stride does not divide the size, it reaches beyond the kernel.
        inside = tuple(slice(0, weight.shape[dim]) for dim in spatial)
        by_weight = product.transpose(0, 1)[(slice(None), slice(None), *inside)]
    if output_mask[2]:
        by_bias = grad.sum((0, *spatial))
    return by_input, by_weight, by_bias


def _max_pool2d_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
) -> torch.Tensor:
    """aten::max_pool2d_with_indices_backward; the names are those of its schema."""
    nothing = torch.zeros_like(self).flatten(-2)
    return nothing.scatter_add(-1, indices.flatten(-2), grad_output.flatten(-2)).view(self.shape)


def _avg_pool2d_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    """aten::avg_pool2d_backward; the names are those of its schema.

    A `divisor_override` is refused, for the forward pass, when all is traced.
    """
    if ceil_mode:
        raise LossError("training_step: ceil_mode of avg_pool2d is True; expected False.")
    height, width = kernel_size if len(kernel_size) == 2 else [kernel_size[0]] * 2
    steps = list(stride) if stride else [height, width]
    channels = self.shape[-3]
    window = torch.ones(channels, 1, height, width, dtype=self.dtype)
    counts: torch.Tensor | int = height * width
    if not count_include_pad:
        everywhere = torch.ones_like(self)
        counts = aten.convolution(
            everywhere, window, None, steps, padding, [1, 1], False, [0, 0], channels
        )
    pads = list(padding) * (2 // len(padding))
    sizes = zip(self.shape[-2:], grad_output.shape[-2:], (height, width), steps, pads, strict=True)
    beyond = [size - ((made - 1) * step - 2 * pad + k) for size, made, k, step, pad in sizes]
    return aten.convolution(
        grad_output / counts, window, None, steps, padding, [1, 1], True, beyond, channels
    )


def _unfold_backward(
    grad: torch.Tensor, input_sizes: Sequence[int], dim: int, size: int, step: int
) -> torch.Tensor:
    """As PyTorch's own, whose indices have 32 bits, which ScatterND does not take."""
    if not input_sizes:
        return grad.squeeze(0)
    dim %= len(input_sizes)
    places = torch.arange(input_sizes[dim], device=grad.device).unfold(0, size, step).flatten()
    values = grad.movedim(-1, dim + 1).flatten(dim, dim + 1)
    zeros = grad.new_zeros(list(input_sizes))
    return aten.index_put(zeros, [None] * dim + [places], values, True)


def _empty_like(self: torch.Tensor, **options: Any) -> torch.Tensor:
    """aten::empty_like: dropout writes into it; torch.onnx has no operator without values."""
    return torch.zeros_like(self)


def _bernoulli(self: torch.Tensor, p: float = 0.5, generator: Any = None) -> torch.Tensor:
    """aten::bernoulli_, in the random numbers of ONNX Runtime."""
    return self.copy_(torch.rand_like(self) < p)
