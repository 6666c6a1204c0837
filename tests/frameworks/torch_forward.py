# SPDX-License-Identifier: MIT
"""The forward models of tests.forward_models in PyTorch, on parameters by the same names."""

from __future__ import annotations

import torch
from torch.nn import functional as F

Tensors = dict[str, torch.Tensor]


def mlp(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    return F.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def convnet(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    a = torch.tanh(F.conv2d(x, p["kernel"], p["offset"]))
    return F.avg_pool2d(a, 2).flatten(1) @ p["weight"] + p["bias"]


def batch_norm_net(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Moves the running statistics in `p` too."""
    c = F.conv2d(x, p["kernel"], padding=1)
    b = F.batch_norm(c, p["mean"], p["variance"], p["scale"], p["shift"], training=True)
    return F.max_pool2d(F.relu(b), 2).flatten(1) @ p["weight"] + p["bias"]


def language_model(p: Tensors, tokens: torch.Tensor, *, heads: int = 2) -> torch.Tensor:
    """Logits of shape [N * T, vocabulary]."""
    n, t = tokens.shape
    width = p["embedding"].shape[1]
    x = F.embedding(tokens, p["embedding"]) + p["positions"][:t]
    for i in range(sum(name.endswith(".qkv") for name in p)):
        q, k, v = (_normal(p, f"{i}.norm1", x) @ p[f"{i}.qkv"]).split(width, -1)
        q, k, v = (part.view(n, t, heads, -1).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(n, t, width) @ p[f"{i}.out"]
        wide = F.gelu(_normal(p, f"{i}.norm2", x) @ p[f"{i}.up"] + p[f"{i}.up_bias"])
        x = x + (wide @ p[f"{i}.down"] + p[f"{i}.down_bias"])
    return (_normal(p, "norm", x) @ p["head"]).view(n * t, -1)


def _normal(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.scale"], p[f"{name}.shift"])


def digits_classifier(p: Tensors, pixels: torch.Tensor) -> torch.Tensor:
    hidden = F.relu(F.linear(pixels / 16, p["hidden.weight"], p["hidden.bias"]))
    return F.linear(hidden, p["output.weight"], p["output.bias"])
