# SPDX-License-Identifier: MIT
"""Random operators and random inputs for them, good, wild and wrong, for tests/test_fuzz.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from onnxloss.onnxscript_defs import CATALOGUE, NO_IGNORED_LABEL, LossSpec, OpSpec
from tests.cases import DTYPES
from tests.models import node_attributes

Arrays = dict[str, np.ndarray]

_SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "axis": (1, 1, 1, 0, -1, -1, 2, -2, 3, -4),
    "ignore_index": (-100, 0, 1, -1, 255, 2**40, 2**63 - 1, NO_IGNORED_LABEL),
    "label_smoothing": (0.0, 0.0, 0.1, 0.75, 1.0),
    "from_logits": (1, 1, 0),
    "epsilon": (0.0, 1e-7, 2.0**-10),
    "z_loss": (0.0, 0.0, 0.01),
    "logit_softcap": (0.0, 0.0, 5.0, 30.0),
    "num_samples": (1, 2, 5, 9),
    "num_true": (1, 1, 3),
    "remove_accidental_hits": (0, 1),
    "seed": (0, 7),
}
_CLASSES = (1, 2, 3, 5, 16, 17, 33, 191, 192, 260)
_WIDE = 64
_SIZES = (0, 1, 2, 3, 5)
_WILD_LABELS = (-(2**63), 2**63 - 1, -1, 2**31, 2**32, -101)
_OVERLONG = 7


@dataclass(frozen=True)
class Operator:
    """An operator with a choice of everything that a session fixes."""

    spec: LossSpec
    op: OpSpec
    attributes: dict[str, Any]
    dtype: str
    label_dtype: str
    given: tuple[str, ...]

    @property
    def is_sampled(self) -> bool:
        """Whether classes are sampled: other inputs, and logits `[N, K]`."""
        return "num_samples" in self.attributes

    @property
    def has_indices(self) -> bool:
        """Whether labels are integers."""
        return self.label_dtype.startswith("int")

    @property
    def node_outputs(self) -> tuple[str, ...]:
        """The outputs of the node, "" for one that it leaves out before another."""
        names = [
            port.name if not port.optional or port.name in self.given else ""
            for port in self.op.outputs
        ]
        while not names[-1]:
            names.pop()
        return tuple(names)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the node has."""
        return tuple(filter(None, self.node_outputs))

    def dtype_of(self, port: str) -> np.dtype:
        """The dtype of an input or output."""
        kinds = {p.name: p.type for p in (*self.op.inputs, *self.op.outputs)}
        if port in ("samples", "drawn_samples"):
            return np.dtype(np.int64)
        if kinds[port] == "S":
            return DTYPES["float64" if self.dtype == "float64" else "float32"]
        return np.dtype(self.label_dtype) if kinds[port] == "Tind" else DTYPES[self.dtype]


def random_operator(rng: np.random.Generator, turn: int) -> Operator:
    """Each operator and dtype in turn; the rest as it comes."""
    operators = [(spec, op) for spec in CATALOGUE for op in spec.ops]
    spec, op = operators[turn % len(operators)]
    dtype = tuple(DTYPES)[turn // len(operators) % len(DTYPES)]
    settings = {}
    for attribute in op.attributes:
        choices = attribute.choices or _SETTINGS.get(attribute.name)
        if choices and not attribute.derived:
            choices = _SETTINGS.get(attribute.name, choices)
            settings[attribute.name] = choices[rng.integers(len(choices))]
    if settings.get("from_logits") == 1:
        settings["normalize"] = "none"
    if settings.get("normalize") == "none":
        settings["epsilon"] = 0.0
    elif "normalize" in settings:
        settings["logit_softcap"] = 0.0
    optional = [port.name for port in (*op.inputs, *op.outputs) if port.optional]
    given = [name for name in optional if rng.random() < 0.5]
    if "num_samples" in settings:
        # What the kernel and the function draw themselves are different samples.
        given = ["samples", "probabilities", *(name for name in given if name == "lse")]
    if settings.get("class_weighting") == "position":
        # Refused by the kernel, nan in the function: a difference that the SPEC names.
        given = [name for name in given if name != "dlabels"]
    if "dlabels" in given and op == spec.loss_and_grad:
        # ONNX Runtime cannot inline a function whose node leaves out an output before another.
        given.append("lse")
    types = {port.name: port.type for port in op.inputs}
    label_dtype = str(rng.choice(["int32", "int64"])) if types["labels"] == "Tind" else dtype
    attributes = node_attributes(spec, dtype, settings)
    return Operator(spec, op, attributes, dtype, label_dtype, tuple(given))


@dataclass
class Feed:
    """Inputs, and what is wrong with them: "" if nothing is."""

    arrays: Arrays
    flaw: str = ""


def random_feed(operator: Operator, rng: np.random.Generator) -> Feed:
    """Inputs of an operator: most are good, some of those wild, and some are wrong."""
    feed = Feed((_sampled_arrays if operator.is_sampled else _dense_arrays)(operator, rng))
    if "dloss" in (port.name for port in operator.op.inputs):
        shape = _positions_shape(operator, feed.arrays)
        per_position = operator.attributes["reduction"] == "none"
        feed.arrays["dloss"] = np.asarray(rng.uniform(0.25, 2, shape if per_position else ()))
    if rng.random() < 0.35:
        _make_wild(operator, feed.arrays, rng)
    if rng.random() < 0.3:
        feed.flaw = _make_wrong(operator, feed.arrays, rng)
    rank = feed.arrays["logits"].ndim
    if not operator.is_sampled and not -rank <= operator.attributes["axis"] < rank:
        feed.flaw = "axis"
    elif not feed.flaw and _has_no_class(operator, feed.arrays):
        feed.flaw = "no classes"
    feed.arrays = {
        name: np.ascontiguousarray(array.astype(operator.dtype_of(name))).reshape(array.shape)
        for name, array in feed.arrays.items()
    }
    return feed


def _axis_of(operator: Operator, rank: int) -> int:
    return min(operator.attributes["axis"] % max(rank, 1), max(rank - 1, 0))


def _positions_shape(operator: Operator, arrays: Arrays) -> tuple[int, ...]:
    shape = arrays["logits"].shape
    if operator.is_sampled:
        return shape[:1]
    axis = operator.attributes["axis"]
    axis = axis if -len(shape) <= axis < len(shape) else _axis_of(operator, len(shape))
    return tuple(np.delete(shape, axis).tolist())


def _has_no_class(operator: Operator, arrays: Arrays) -> bool:
    shape = arrays["logits"].shape
    axis = 1 if operator.is_sampled else operator.attributes["axis"]
    return shape[axis] == 0 and (operator.is_sampled or min(np.delete(shape, axis), default=1) > 0)


def _dense_arrays(operator: Operator, rng: np.random.Generator) -> Arrays:
    axis = operator.attributes["axis"]
    least = axis + 1 if axis >= 0 else -axis
    rank = int(rng.integers(max(1, least - (rng.random() < 0.05)), max(4, least) + 1))
    shape = [int(rng.choice(_SIZES)) for _ in range(rank)]
    classes = int(rng.choice(_CLASSES))
    if rng.random() < 0.1:
        shape[0] = 70
    if classes > _WIDE:
        shape = [min(size, 2) for size in shape]
    place = axis if -rank <= axis < rank else _axis_of(operator, rank)
    shape[place] = classes
    arrays: Arrays = {"logits": 3 * rng.standard_normal(shape)}
    if operator.attributes["from_logits"] == 0:
        arrays["logits"] = rng.uniform(0.0625, 1, shape)
    if operator.attributes["epsilon"] > 0:
        arrays["logits"] *= rng.random(shape) < 0.8
    positions = tuple(np.delete(shape, place).tolist())
    if operator.has_indices:
        labels = rng.integers(0, classes, positions)
        ignored = operator.attributes["ignore_index"]
        fits = np.iinfo(operator.label_dtype).min <= ignored <= np.iinfo(operator.label_dtype).max
        if ignored != NO_IGNORED_LABEL and fits and rng.random() < 0.5:
            labels = np.where(rng.random(positions) < 0.3, ignored, labels)
        arrays["labels"] = np.asarray(labels)
    else:
        shares = rng.random(shape) * (rng.random(shape) < 0.8)
        total = shares.sum(axis=place, keepdims=True)
        arrays["labels"] = shares * rng.uniform(0.5, 1.5, total.shape) / np.maximum(total, 0.01)
    weights = {"class_weights": (classes,), "sample_weights": positions}
    for name, size in weights.items():
        if name in operator.given:
            arrays[name] = np.asarray(rng.uniform(0.25, 3, size))
            if rng.random() < 0.3:
                arrays[name] *= rng.random(size) < 0.6
    return arrays


def _sampled_arrays(operator: Operator, rng: np.random.Generator) -> Arrays:
    rows, classes = int(rng.choice(_SIZES)), int(rng.choice(_CLASSES))
    true, count = operator.attributes["num_true"], operator.attributes["num_samples"]
    by_row = rng.random() < 0.3
    return {
        "logits": 3 * rng.standard_normal((rows, classes)),
        "labels": rng.integers(0, classes, (rows, true)),
        "samples": rng.integers(0, classes, (rows, count) if by_row else (count,)),
        "probabilities": rng.uniform(0.0625, 1, (rows, true + count)),
    }


def _make_wild(operator: Operator, arrays: Arrays, rng: np.random.Generator) -> None:
    """Numbers that are not finite or near the end of the range, in one of the inputs."""
    floats = [name for name, array in arrays.items() if array.dtype.kind == "f"]
    name = floats[rng.integers(len(floats))]
    values = [np.nan, np.inf, -np.inf, 0.0, 1000.0, -1000.0]
    if name == "logits":
        # In float64 the body's sums have no wider type.
        largest = float(ml_dtypes.finfo(DTYPES[operator.dtype]).max)
        largest = min(largest, np.finfo(np.float64).max / 1024)
        values += [60000.0, -60000.0, largest, -largest]
        if operator.attributes.get("normalize") == "before_clip":
            # Their sum would be that of what is rounded away.
            values = np.abs(values)
    array = arrays[name].reshape(-1)
    for value in rng.choice(values, min(array.size, int(rng.integers(1, 4)))):
        array[rng.integers(array.size)] = value
    if name == "logits" and rng.random() < 0.2:
        if operator.attributes.get("normalize", "none") != "none":
            # Many equal terms would give the body's sum an error that the kernel's has not.
            values = [value for value in values if not np.isfinite(value)]
        arrays[name][...] = rng.choice(values)
    arrays[name] = array.reshape(arrays[name].shape)


def _make_wrong(operator: Operator, arrays: Arrays, rng: np.random.Generator) -> str:
    """Breaks one input; says how."""
    choices = [name for name in arrays if name != "logits"]
    name = choices[rng.integers(len(choices))]
    array = arrays[name]
    if array.dtype.kind == "i" and array.size and rng.random() < 0.5:
        size = operator.dtype_of(name)
        axis = operator.attributes.get("axis", 1)
        rank = arrays["logits"].ndim
        classes = arrays["logits"].shape[axis] if -rank <= axis < rank else 0
        wild = (*_WILD_LABELS, classes)
        fitting = [v for v in wild if np.iinfo(size).min <= v <= np.iinfo(size).max]
        value = fitting[rng.integers(len(fitting))]
        if value == operator.attributes.get("ignore_index") and value != NO_IGNORED_LABEL:
            return ""
        array = array.copy()
        array.reshape(-1)[rng.integers(array.size)] = value
        arrays[name] = array
        return f"value in {name}"
    shape = list(array.shape)
    way = rng.integers(3)
    if way == 0 and shape:
        shape.pop()
    elif way == 1:
        shape.append(1)
    elif shape:
        shape[rng.integers(len(shape))] += 1
    else:
        shape.append(_OVERLONG)
    if shape == list(array.shape):
        return ""
    # Samples of every row are as good as those of all.
    rows = arrays["logits"].shape[0]
    if name == "samples" and shape == [rows, operator.attributes["num_samples"]]:
        return ""
    if name == "samples" and shape == [operator.attributes["num_samples"]]:
        return ""
    arrays[name] = np.resize(array, shape) if array.size else np.ones(shape)
    return f"shape of {name}"
