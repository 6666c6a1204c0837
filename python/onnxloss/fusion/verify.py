# SPDX-License-Identifier: MIT
"""Runs what a fusion changed beside what it was, on random data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..config import NO_IGNORED_LABEL
from ..errors import LossError
from ..library import library_path
from ..onnxscript_defs import CATALOGUE, DOMAIN
from ..trial import (
    difference,
    dtype_names,
    dtype_of,
    inferred,
    part_of,
    run,
    sizes_of,
    typed_values,
)
from .definitions import with_definitions


@dataclass(frozen=True)
class Root:
    """What a value is for a loss: the port, and what its labels may be."""

    port: str = ""
    is_positive: bool = False
    classes: int = 0
    ignored: int = NO_IGNORED_LABEL


_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Cast", "Identity", "Expand")
"""Operators that only move what they get: a random value is put in before them."""


def verify(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    roots: Mapping[str, Root],
    types: Mapping[str, onnx.ValueInfoProto],
    inputs: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Compares the models where they differ, or as a whole on `inputs`.

    Args:
        original: The model as it was.
        fused: The model with this project's operators.
        roots: What the new losses are computed of, from `roots_of`.
        types: Values whose types the rewriting knows, by name.
        inputs: Arrays for the model's inputs.

    Raises:
        LossError: The results differ, or one of the models cannot be run.
    """
    pairs = [(original, fused, dict(inputs))] if inputs else _parts(original, fused, roots, types)
    for before, after, feeds in pairs:
        expected = _run_original(before, feeds)
        for library in _ways():
            found = _run_fused(after, feeds, library=library)
            worst, name = difference(expected, found, dtype_names(before))
            if worst > 1:
                way = "the kernels" if library else "the function bodies"
                raise LossError(
                    f'fuse: "{name}" is another value after fusing, with {way}: the difference is '
                    f"{worst:.3g} times what rounding explains. The model was left as it is."
                )


def _ways() -> tuple[bool, ...]:
    try:
        library_path()
    except LossError:
        return (False,)
    return (False, True)


def _run_original(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs; by definition where ONNX Runtime has no kernel for a training operator."""
    try:
        return run(model, feeds)
    except LossError as error:
        defined = with_definitions(model)
        if defined is None:
            raise _unverified(error) from error
        try:
            return run(defined, feeds)
        except LossError as second:
            raise _unverified(second) from second


def _run_fused(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, library: bool
) -> dict[str, np.ndarray]:
    try:
        return run(model, feeds, library=library)
    except LossError as error:
        raise _unverified(error) from error


def _unverified(error: LossError) -> LossError:
    return LossError(
        f"fuse: the fused model cannot be compared with the original one: {error} "
        "Give arrays for the model's inputs, on which both are run."
    )


def _parts(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    roots: Mapping[str, Root],
    types: Mapping[str, onnx.ValueInfoProto],
) -> list[tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]]:
    """What differs, as two models of the same inputs and outputs, and random arrays for them."""
    original, fused = inferred(original, "fuse"), inferred(fused, "fuse")
    types = {**types, **typed_values(fused), **typed_values(original)}
    there = {name for node in original.graph.node for name in node.output}
    same = {_key(node) for node in original.graph.node}
    changed = [
        name
        for node in fused.graph.node
        if _key(node) not in same
        for name in node.output
        if name in there
    ]
    roots = {name: root for name, root in roots.items() if name not in changed}
    before, after = (part_of(model, changed, roots, types) for model in (original, fused))
    feeds = {}
    rng = np.random.default_rng(len(roots))
    for value in (*before.graph.input, *after.graph.input):
        if value.name not in feeds:
            feeds[value.name] = _random(rng, value, roots.get(value.name, Root()))
    return [(_with_inputs(before, after), _with_inputs(after, before), feeds)]


def _with_inputs(model: onnx.ModelProto, other: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the other's inputs too, so that both take the same arrays."""
    names = {value.name for value in model.graph.input}
    constants = {tensor.name for tensor in model.graph.initializer}
    made = {name for node in model.graph.node for name in node.output}
    model.graph.input.extend(
        value for value in other.graph.input if value.name not in names | constants | made
    )
    return model


def _key(node: onnx.NodeProto) -> bytes:
    """What a node computes of what, and what it calls it."""
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    bare.name = bare.doc_string = ""
    del bare.metadata_props[:]
    attributes = sorted(bare.attribute, key=lambda attribute: attribute.name)
    del bare.attribute[:]
    bare.attribute.extend(attributes)
    return bare.SerializeToString(deterministic=True)


def roots_of(
    original: onnx.ModelProto, fused: onnx.ModelProto, losses: Collection[str]
) -> dict[str, Root]:
    """The values that the losses are computed of, before all that only moves them.

    Args:
        original: The model as it was.
        fused: The model with this project's operators, none of them written out.
        losses: The first results of the new nodes.
    """
    fused = inferred(fused, "fuse")
    values = typed_values(fused)
    roots: dict[str, Root] = {}
    makers = {name: node for node in original.graph.node for name in node.output}
    for node in fused.graph.node:
        if node.domain != DOMAIN or node.output[0] not in losses:
            continue
        op = next(op for spec in CATALOGUE for op in spec.ops if op.name == node.op_type)
        names = {port.name: name for port, name in zip(op.inputs, node.input, strict=False)}
        settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        shape = sizes_of(values[names["logits"]]) or ()
        classes = shape[settings["axis"]]
        for port, name in names.items():
            root = _root(name, fused, makers)
            is_positive = port != "logits" or settings["from_logits"] == 0
            ignored = int(settings.get("ignore_index", 0))
            # Losses that share labels may have more classes than one of them.
            most = int(classes or 0)
            least = min(most, roots[root].classes) if root in roots else most
            roots[root] = Root(port, is_positive, least, ignored)
    return roots


def _root(name: str, fused: onnx.ModelProto, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The value before all that only moves it, that both models have."""
    own = {output: node for node in fused.graph.node for output in node.output}
    while True:
        node = own.get(name)
        if node is None or (node.op_type not in _VIEWS and name in makers):
            return name
        name = node.input[0]


def _random(rng: np.random.Generator, value: onnx.ValueInfoProto, root: Root) -> np.ndarray:
    shape, dtype = sizes_of(value), dtype_of(value)
    if shape is None:
        raise LossError(
            f'fuse: the rank of "{value.name}" is unknown; run onnx.shape_inference on the model.'
        )
    if root.port and dtype.kind in "iu":
        labels = rng.integers(0, max(root.classes, 1), shape)
        if root.port == "labels" and root.ignored != NO_IGNORED_LABEL:
            labels = np.where(rng.random(shape) < 0.25, root.ignored, labels)
        return labels.astype(dtype)
    if root.is_positive:
        return rng.uniform(0.25, 1.5, shape).astype(dtype)
    numbers = np.asarray(3 * rng.standard_normal(shape))
    return np.asarray(numbers > 0) if dtype.kind == "b" else numbers.astype(dtype)
