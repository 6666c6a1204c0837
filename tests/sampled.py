# SPDX-License-Identifier: MIT
"""What the tests of the sampled softmax share: its formula in float64, its sampler, its models."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from math import exp, expm1, log, log1p, ulp
from typing import Any

import numpy as np
import onnx
from onnx import helper

import onnxloss
from onnxloss.functions import build_function
from onnxloss.onnxscript_defs import DOMAIN, OPSET_VERSION, OpSpec
from onnxloss.onnxscript_defs import find as find_spec
from tests.cases import DTYPES
from tests.runtime import run_model

OP = "SampledSoftmaxCrossEntropyLoss"
SPEC = find_spec(OP)


def truth(
    logits: np.ndarray,
    labels: np.ndarray,
    samples: np.ndarray,
    probabilities: np.ndarray,
    dloss: np.ndarray | float = 1.0,
    *,
    remove_accidental_hits: bool = True,
    z_loss: float = 0.0,
    logit_softcap: float = 0.0,
) -> dict[str, np.ndarray]:
    """Loss and lse `[N]` and gradient in float64, a row and a column at a time."""
    rows, classes = logits.shape
    num_true = labels.shape[1]
    k = np.broadcast_to(np.asarray(dloss, np.float64), (rows,))
    loss, lse, dlogits = np.zeros(rows), np.zeros(rows), np.zeros((rows, classes))
    for i in range(rows):
        drawn = samples if samples.ndim == 1 else samples[i]
        columns = [int(v) for v in (*labels[i], *drawn)]
        # Wider than the dtypes compared: a cap's own error would be in every difference.
        x = np.array([logits[i, v] for v in columns], np.longdouble)
        slope = np.ones(len(x))
        if logit_softcap:
            slope = 1 / np.cosh(x / logit_softcap) ** 2
            x = logit_softcap * np.tanh(x / logit_softcap)
        x -= np.log(probabilities[i].astype(np.float64))
        if remove_accidental_hits:
            hits = [j >= num_true and v in labels[i] for j, v in enumerate(columns)]
            x[hits] = -np.inf
        top = int(np.argmax(x))
        others = np.exp(np.delete(x, top) - x[top]).sum()
        with np.errstate(invalid="ignore"):
            lse[i] = x[top] + np.log1p(others)
            loss[i] = np.mean(x[top] - x[:num_true]) + np.log1p(others) + z_loss * lse[i] ** 2
            e = np.exp(x - x[top])
        for j, v in enumerate(columns):
            share = 1 / num_true if j < num_true else 0.0
            # p - share, with no digit of a confident row's lost.
            pull = 2 * z_loss * lse[i] * e[j]
            by_score = k[i] * ((e[j] - share) - share * others + pull) / (1 + others)
            dlogits[i, v] += by_score * slope[j]
    return {"loss": loss, "dlogits": dlogits, "lse": lse}


def mt19937_64(seed: int) -> Iterator[int]:
    """The engine of C++'s standard library, from its definition."""
    mask = 2**64 - 1
    state = [seed]
    for i in range(1, 312):
        state.append((6364136223846793005 * (state[-1] ^ (state[-1] >> 62)) + i) & mask)
    while True:
        for i in range(312):
            word = (state[i] & ~(2**31 - 1) & mask) | (state[(i + 1) % 312] & (2**31 - 1))
            twist = 0xB5026F5AA96619E9 if word & 1 else 0
            state[i] = state[(i + 156) % 312] ^ (word >> 1) ^ twist
        for word in state:
            word ^= (word >> 29) & 0x5555555555555555
            word ^= (word << 17) & 0x71D67FFFEDA60000
            word ^= (word << 37) & 0xFFF7EEE000000000
            yield word ^ (word >> 43)


def drawn(classes: int, count: int, seed: int) -> tuple[list[int], int]:
    """Paddle's samples and their num_tries."""
    log_range = float(np.float32(log(classes + 1)))
    values: dict[int, None] = {}
    for tries, word in enumerate(mt19937_64(seed), 1):
        uniform = min(word / 2**64, 1 - ulp(0.5))
        values[(int(exp(uniform * log_range)) - 1) % classes] = None
        if len(values) == count:
            return list(values), tries
    raise AssertionError("the engine never ends")


def chance(value: int, classes: int) -> float:
    """The probability of a class in one draw."""
    return log((value + 2) / (value + 1)) / float(np.float32(log(classes + 1)))


def expected_count(value: int, classes: int, count: int, tries: float) -> float:
    """Q of a class."""
    p = chance(value, classes)
    return p * count if tries == count else -expm1(tries * log1p(-p))


def config(**attributes: Any) -> onnxloss.LossConfig:
    """The loss with its samples drawn."""
    return onnxloss.LossConfig(OP, attributes)


def inputs_of(
    rows: int, classes: int, num_true: int, count: int, dtype: str = "float32", seed: int = 0
) -> dict[str, np.ndarray]:
    """Inputs of the operators; samples are few of many classes, and hit labels."""
    rng = np.random.default_rng(seed)
    stash = np.float64 if dtype == "float64" else np.float32
    labels = rng.integers(0, classes, (rows, num_true))
    samples = rng.permutation(classes)[:count]
    if rows and count > 1:
        labels[0, 0] = samples[1]
    return {
        "dloss": rng.uniform(0.5, 2, rows).astype(stash),
        "logits": (3 * rng.standard_normal((rows, classes))).astype(DTYPES[dtype]),
        "labels": labels,
        "samples": samples,
        "probabilities": rng.uniform(0.01, 1, (rows, num_true + count)).astype(stash),
    }


def node_model(
    op: OpSpec,
    arrays: Mapping[str, np.ndarray],
    *,
    optional: Container[str] = (),
    **settings: Any,
) -> onnx.ModelProto:
    """One node over graph inputs like `arrays`, with the folded function."""
    stash = arrays["dloss"].dtype
    attributes = {attribute.name: attribute.default for attribute in SPEC.attributes}
    attributes |= {
        "num_true": arrays["labels"].shape[1],
        "stash_type": helper.np_dtype_to_tensor_dtype(stash),
        **settings,
    }
    given = [port.name for port in op.inputs if port.name in arrays]
    rows = arrays["logits"].shape[0]
    columns = attributes["num_true"] + attributes["num_samples"]
    samples = arrays["samples"].shape if "samples" in arrays else (attributes["num_samples"],)
    types = {
        "loss": (stash, (rows,) if attributes["reduction"] == "none" else ()),
        "dlogits": (arrays["logits"].dtype, arrays["logits"].shape),
        "lse": (stash, (rows,)),
        "drawn_samples": (np.dtype(np.int64), samples),
        "drawn_probabilities": (stash, (rows, columns)),
    }
    results = [port.name for port in op.outputs_with(optional)]
    function = build_function(SPEC, op, given=[*given, *results], opset=19, attributes=attributes)

    def info(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    return helper.make_model(
        helper.make_graph(
            [helper.make_node(op.name, given, results, domain=DOMAIN, **attributes)],
            op.name,
            [info(name, arrays[name].dtype, arrays[name].shape) for name in given],
            [info(name, *types[name]) for name in results],
        ),
        functions=[function],
        opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, OPSET_VERSION)],
        ir_version=9,
    )


def run_node(
    op: OpSpec,
    arrays: Mapping[str, np.ndarray],
    *,
    library: bool,
    threads: int = 1,
    **settings: Any,
) -> dict[str, np.ndarray]:
    """The outputs of one node."""
    model = node_model(op, arrays, **settings)
    feeds = {value.name: arrays[value.name] for value in model.graph.input}
    return run_model(model, feeds, library=library, threads=threads)
