# SPDX-License-Identifier: MIT
"""Adjoints of convolutions and of average pooling, for any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .adjoints import Adjoint, rule


@rule("Conv")
def _conv(op: Adjoint, node: Any, g: str) -> list[str | None]:
    x, w, *b = node.input
    window = _Window(op, x, op.sizes(w)[2:])
    dx = dw = db = None
    if op.wants(x):
        dx = window.spread(g, w)
    if op.wants(w):
        dw = _kernel_adjoint(op, x, g, window)
    if b and b[0] and op.wants(b[0]):
        axes = [axis for axis in range(len(op.dims(x) or ())) if axis != 1]
        db = op.axis_sum(g, axes, keepdims=False)
    return [dx, dw, db]


@rule("AveragePool")
def _average_pool(op: Adjoint, node: Any, g: str) -> list[str | None]:
    kernel = op.attributes["kernel_shape"]
    window = _Window(op, node.input[0], kernel)
    if op.attributes.get("ceil_mode", 0):
        raise NotImplementedError
    outputs, share = op.sizes(node.output[0], start=2), 1 / float(np.prod(kernel))
    if any(window.pads) and not op.attributes.get("count_include_pad", 0):
        g, share = op("Mul", g, op.tensor(1 / window.counts(outputs), outputs)), 1.0
    # Each channel of each image is an image of its own.
    image = op("Reshape", g, op.ints([-1, 1, *outputs]))
    shares = op.tensor(share, [1, 1, *kernel])
    return [op("Reshape", window.spread(image, shares), op.shape_of(node.input[0]))]


@rule("GlobalAveragePool")
def _global_average_pool(op: Adjoint, node: Any, g: str) -> list[str | None]:
    sizes = op.sizes(node.input[0], start=2)
    share = op("Mul", g, op.scalar(1 / float(np.prod(sizes))))
    return [op("Expand", share, op.shape_of(node.input[0]))]


class _Window:
    """Strides, dilations and pads of a convolution or a pooling of `x`."""

    def __init__(self, op: Adjoint, x: str, kernel: Sequence[int]) -> None:
        if op.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise NotImplementedError
        rank = len(kernel)
        self._op, self.kernel, self.sizes = op, list(kernel), op.sizes(x, start=2)
        self.strides = op.attributes.get("strides", [1] * rank)
        self.dilations = op.attributes.get("dilations", [1] * rank)
        self.pads = op.attributes.get("pads", [0] * 2 * rank)
        self.group = op.attributes.get("group", 1)

    def counts(self, outputs: Sequence[int]) -> np.ndarray:
        """How many elements of `x` each window has."""
        counts = np.ones([])
        for axis, count in enumerate(outputs):
            first = np.arange(count) * self.strides[axis] - self.pads[axis]
            places = first[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis]
            within = ((places >= 0) & (places < self.sizes[axis])).sum(1)
            counts = np.multiply.outer(counts, within)
        return counts

    def spread(self, g: str, kernel: str) -> str:
        """The transposed convolution, with the size of `x`."""
        rank = len(self.kernel)
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        padded = [
            size + self.pads[i] + self.pads[rank + i] - span
            for i, (size, span) in enumerate(zip(self.sizes, spans, strict=True))
        ]
        return self._op(
            "ConvTranspose",
            g,
            kernel,
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
            group=self.group,
            output_padding=[p % stride for p, stride in zip(padded, self.strides, strict=True)],
        )


def _kernel_adjoint(op: Adjoint, x: str, g: str, window: _Window) -> str:
    """A convolution too: images are channels, the gradient is the kernel, strides dilate it."""
    if window.group != 1:
        raise NotImplementedError
    rank = len(op.dims(x) or ())
    swap = [1, 0, *range(2, rank)]
    product = op(
        "Conv",
        op("Transpose", x, perm=swap),
        op("Transpose", g, perm=swap),
        strides=window.dilations,
        dilations=window.strides,
        pads=window.pads,
    )
    # A stride that does not divide the size leaves more than the kernel.
    starts, axes = op.ints([0] * (rank - 2)), op.ints(range(2, rank))
    product = op("Slice", product, starts, op.ints(window.kernel), axes)
    return op("Transpose", product, perm=swap)
