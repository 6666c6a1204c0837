# SPDX-License-Identifier: MIT
"""Random operators, attributes, shapes, dtypes and values: the kernel against the function body.

Each of the inputs is counted: both agree, both refuse, or the two differ in a way that has a name
here. The kernel agrees where it is within `KERNEL_OWN_BOUND` of tests/tolerance.py of the body, as
it runs in the input's dtype or in float64, and not finite where one of those is not, in the same
way. Units are of the greatest number that weights and upstream gradient let a term have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxloss.functions import build_function
from onnxloss.onnxscript_defs import DOMAIN, OPSET_VERSION
from tests.cases import DTYPES
from tests.fuzz_inputs import Arrays, Operator, random_feed, random_operator
from tests.models import OPSET, element_type, input_names
from tests.runtime import BFLOAT16, OTHER_LIBRARY, RUNTIME_ERRORS, make_session
from tests.tolerance import KERNEL_OWN_BOUND, eps

CHUNKS = 24
OPERATORS = 9
INPUTS = 100
assert CHUNKS * OPERATORS * INPUTS >= 20000

# The loops of a sanitizer's build are no vector loops: they add a row's terms one by one.
SLACK = 8.0 if OTHER_LIBRARY else 1.0

AGREE = "both agree"
REFUSE = "both refuse"
BROADCASTS = "the function broadcasts what the kernel refuses"
NO_CLASSES = "the function has an answer for positions without classes"
NOT_FINITE = "a weight, label or upstream gradient is not finite; nor is one of the answers"
# Its reductions leave the axis as it is there. Exporters write axes that are not negative.
EMPTY = "ONNX Runtime cannot reduce an empty tensor along a negative axis"
NAMES = {AGREE, REFUSE, BROADCASTS, NO_CLASSES, NOT_FINITE, EMPTY}


def open_session(operator: Operator, *, library: bool, folded: bool) -> Any:
    """One node and its function; bfloat16 goes in and out as float32, which holds it."""
    attributes = operator.attributes
    given = input_names(operator.op, operator.given)
    ports = [*filter(None, given), *operator.outputs]
    function = build_function(
        operator.spec,
        operator.op,
        given=ports,
        opset=OPSET,
        attributes=attributes if folded else None,
    )
    narrow = [name for name in ports if operator.dtype_of(name) == BFLOAT16]
    inner = {name: f"{name}_bfloat16" for name in narrow}
    casts = {
        name: (name, inner[name], onnx.TensorProto.BFLOAT16)
        if name in given
        else (inner[name], name, onnx.TensorProto.FLOAT)
        for name in narrow
    }
    before, after = (
        [
            helper.make_node("Cast", [source], [target], to=to)
            for name, (source, target, to) in casts.items()
            if (name in given) == is_input
        ]
        for is_input in (True, False)
    )
    node = helper.make_node(
        operator.op.name,
        [inner.get(name, name) for name in given],
        [inner.get(name, name) for name in operator.node_outputs],
        domain=DOMAIN,
        **attributes,
    )
    values = [
        [
            helper.make_tensor_value_info(name, element_type(outer_dtype(operator, name)), None)
            for name in names
            if name
        ]
        for names in (given, operator.outputs)
    ]
    model = helper.make_model(
        helper.make_graph([*before, node, *after], "fuzz", *values),
        functions=[function],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OPSET_VERSION)],
        ir_version=9,
    )
    return make_session(model, library=library)


def outer_dtype(operator: Operator, name: str) -> np.dtype:
    """The dtype of the graph's port."""
    dtype = operator.dtype_of(name)
    return np.dtype(np.float32) if dtype == BFLOAT16 else dtype


def in_float64(operator: Operator) -> Operator:
    """The same operator for float64 logits."""
    labels = operator.label_dtype if operator.has_indices else "float64"
    attributes = {**operator.attributes, "stash_type": onnx.TensorProto.DOUBLE}
    return replace(operator, attributes=attributes, dtype="float64", label_dtype=labels)


def run(session: Any, operator: Operator, arrays: Arrays) -> dict[str, np.ndarray] | None:
    """The outputs, or None where the input is refused."""
    feeds = {
        name: array.astype(outer_dtype(operator, name), copy=False)
        for name, array in arrays.items()
    }
    try:
        return dict(zip(operator.outputs, session.run(None, feeds), strict=True))
    except RUNTIME_ERRORS:
        return None


def gain(operator: Operator, arrays: Arrays) -> float:
    """The greatest factor that a term of loss or gradient can have."""

    def greatest(name: str) -> float:
        finite = np.abs(arrays.get(name, np.ones(1)).astype(np.float64))
        return max(1.0, np.max(finite, where=np.isfinite(finite), initial=0.0))

    def least(name: str) -> float:
        positive = np.abs(arrays.get(name, np.ones(1)).astype(np.float64))
        return min(1.0, np.min(positive, where=positive > 0, initial=1.0))

    factor = greatest("dloss")
    for name in ("class_weights", "sample_weights"):
        factor *= greatest(name) / least(name)
    if not operator.has_indices:
        # A row of them, or that many of one that is not a probability; squared where they weigh
        # positions.
        factor *= (2 * greatest("labels")) ** 2
    if operator.attributes.get("normalize") == "after_clip":
        # Losses are differences of logarithms.
        factor *= 16
    return factor * (1 + 2 * operator.attributes["z_loss"] * greatest("logits"))


def agrees(kernel: np.ndarray, body: np.ndarray, dtype: np.dtype, factor: float) -> np.ndarray:
    """Which elements of the kernel's result are the body's, within the tolerance."""
    kernel, body = kernel.astype(np.float64), body.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = body.astype(dtype).astype(np.float64)
        body = np.where(np.isfinite(rounded), body, rounded)
        unit = KERNEL_OWN_BOUND[dtype.name] * eps(dtype) * SLACK
        allowed = unit * np.maximum(factor, np.abs(body))
        near = np.abs(kernel - body) <= allowed
    same = (kernel == body) | (np.isnan(kernel) & np.isnan(body))
    return same | (near & np.isfinite(kernel) & np.isfinite(body))


def difference(
    operator: Operator, arrays: Arrays, results: Mapping[str, dict[str, np.ndarray]]
) -> str:
    """The name of what the kernel and the bodies have in common, output by output."""
    factor, name = gain(operator, arrays), AGREE
    finite = all(
        np.isfinite(array.astype(np.float64)).all()
        for port, array in arrays.items()
        if port != "logits"
    )
    for port, kernel in results["kernel"].items():
        bodies = [results[way][port] for way in ("body", "body in float64")]
        assert all(kernel.shape == body.shape for body in bodies), (operator, port)
        dtype = operator.dtype_of(port)
        near = np.logical_or(*(agrees(kernel, body, dtype, factor) for body in bodies))
        if near.all():
            continue
        wrong = [np.asarray(values)[~near] for values in (kernel, *bodies)]
        shapes = {given: array.shape for given, array in arrays.items()}
        what = (operator, shapes, port, [values[:5] for values in wrong], arrays)
        assert not finite and not np.isfinite(wrong).all(axis=0).any(), what
        name = NOT_FINITE
    return name


def compare(
    operator: Operator, sessions: Mapping[str, tuple[Any, Operator]], rng: np.random.Generator
) -> str:
    """What became of one random input."""
    feed = random_feed(operator, rng)
    results = {
        way: run(session, variant, feed.arrays) for way, (session, variant) in sessions.items()
    }
    kernel, body = results["kernel"], results["body"]
    shapes = {name: array.shape for name, array in feed.arrays.items()}
    assert (kernel is None) == bool(feed.flaw), (feed.flaw, operator, shapes, feed.arrays)
    if kernel is None:
        if body is None:
            return REFUSE
        return NO_CLASSES if feed.flaw == "no classes" else BROADCASTS
    if feed.arrays["logits"].size == 0 and operator.attributes.get("axis", 0) < 0:
        if body is None or any(body[port].shape != kernel[port].shape for port in kernel):
            return EMPTY
    assert body is not None, (operator, shapes)
    return difference(operator, feed.arrays, results)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_kernel_and_function_body_agree(chunk: int) -> None:
    outcomes: Counter[str] = Counter()
    for turn in range(chunk * OPERATORS, (chunk + 1) * OPERATORS):
        rng = np.random.default_rng(turn)
        operator = random_operator(rng, turn)
        folded = bool(rng.integers(2))
        wide = in_float64(operator)
        sessions = {
            "kernel": (open_session(operator, library=True, folded=folded), operator),
            "body": (open_session(operator, library=False, folded=folded), operator),
            "body in float64": (open_session(wide, library=False, folded=folded), wide),
        }
        outcomes.update(compare(operator, sessions, rng) for _ in range(INPUTS))
    assert set(outcomes) <= NAMES
    assert outcomes.total() == OPERATORS * INPUTS
    assert outcomes[AGREE] > OPERATORS * INPUTS / 2


def test_every_dtype_has_its_turn() -> None:
    drawn = {
        (operator.op.name, operator.dtype)
        for turn in range(CHUNKS * OPERATORS)
        for operator in [random_operator(np.random.default_rng(turn), turn)]
    }
    assert len(drawn) == 9 * len(DTYPES)
