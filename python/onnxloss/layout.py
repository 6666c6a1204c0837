# SPDX-License-Identifier: MIT
"""What a loss has in a graph: its names, and the shapes and dtypes that its logits decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import LossConfig
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES, promoted
from .errors import expected, expected_shape

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Ports:
    """The names that a loss has in a graph."""

    logits: str = "logits"
    labels: str = "labels"
    sample_weights: str = "sample_weights"
    loss: str = "loss"
    dloss: str = "dloss"
    dlogits: str = "dlogits"

    @property
    def prefix(self) -> str:
        """What keeps the other names of this loss apart from another one's."""
        return "" if self.loss == "loss" else f"{self.loss}."

    def other(self, port: str) -> str:
        """The name of an input or output that has no name of its own here, as `lse`."""
        return f"{self.prefix}{port}"


@dataclass(frozen=True)
class Layout:
    """Shapes and dtypes of one loss in a graph.

    `labels` and `loss` are the shapes that the user sees, `positions` that of the operator's.
    `compute` is the logits' dtype as the operator gets them, after promotion: the dtype of `loss`
    and `dloss` too.
    """

    logits: Shape
    axis: int
    labels: Shape
    loss: Shape
    dtype: str
    label_dtype: str
    compute: str

    @property
    def positions(self) -> Shape:
        """The logits' shape without the class axis."""
        return _dropped(self.logits, self.axis)

    @property
    def keeps_axis(self) -> bool:
        """Whether the loss has the class axis, of size 1."""
        return self.loss not in ((), self.positions)


def layout(
    config: LossConfig,
    logits: Shape,
    labels: Shape | None = None,
    *,
    dtype: str,
    label_dtype: str | None,
) -> Layout:
    """What a loss has in a graph whose logits and labels have these shapes and dtypes.

    Args:
        config: The loss.
        logits: Shape of the logits.
        labels: Shape of the labels; by default what the logits' says.
        dtype: Dtype of the logits.
        label_dtype: Dtype of the labels; by default int64, or that of the logits.

    Raises:
        LossError: The configuration does not fit them.
    """
    if dtype not in FLOAT_DTYPES:
        raise expected(config.op, "dtype", dtype, " or ".join(FLOAT_DTYPES))
    check_sizes(config.op, "logits", logits)
    check_sizes(config.op, "labels", labels or ())
    label_dtype = _label_dtype(config, len(logits), dtype, label_dtype)
    if config.spec.drawn:
        return _sampled(config, logits, labels, dtype, label_dtype)
    compute = _compute_dtype(config, dtype, label_dtype)
    axis = _class_axis(config, logits)
    classes, weights = logits[axis], config.class_weights
    if weights is not None and isinstance(classes, int) and len(weights) != classes:
        raise expected_shape(config.op, "class_weights", [len(weights)], [classes])
    if weights is not None:
        # Known to ONNX Runtime, they are checked without the library too.
        logits = _with_axis(logits, axis, len(weights))
    labels = _label_shape(config, logits, axis, labels)
    kept = _kept(logits, axis)
    loss = _dropped(logits, axis)
    if config.attributes["reduction"] != "none":
        loss = ()
    elif config.loss_axis == "kept" or (config.loss_axis == "as labels" and labels == kept):
        loss = kept
    return Layout(logits, axis, labels, loss, dtype, label_dtype, compute)


def fitted(
    config: LossConfig, logits: Shape, labels: Shape | None, label_dtype: str | None
) -> LossConfig:
    """The configuration for these labels, where there is one for each kind.

    Their dtype tells the kind; else their rank does, since only probabilities have that of the
    logits.
    """
    other = config.other_labels
    if other is None or (labels is None and label_dtype is None):
        return config
    if label_dtype is not None:
        probabilities = label_dtype in FLOAT_DTYPES
    else:
        probabilities = len(labels or ()) == len(logits)
    return config if config.takes_probabilities == probabilities else other


def check_sizes(op: str, name: str, shape: Shape) -> None:
    """Refuses a shape that is none.

    Raises:
        LossError: One of its sizes is neither a number of at least 0 nor a name nor None.
    """
    for size in shape:
        if isinstance(size, bool) or not (size is None or isinstance(size, int | str)):
            raise expected(op, name, shape, "a shape of numbers and names")
        if isinstance(size, int) and size < 0:
            raise expected(op, name, shape, "sizes of at least 0")


def fitting(op: str, name: str, given: Shape, *wanted: Shape) -> Shape:
    """The first wanted shape that `given` does not contradict.

    Raises:
        LossError: It contradicts all.
    """
    for shape in wanted:
        pairs = zip(given, shape, strict=False)
        clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
        if len(given) == len(shape) and not clash:
            return shape
    raise expected_shape(op, name, given, *wanted)


def sample_counts(config: LossConfig) -> tuple[int, int]:
    """How many true classes and how many samples a row of a sampled loss has: T and S."""
    return int(config.attributes["num_true"]), int(config.attributes["num_samples"])


def _sampled(
    config: LossConfig, logits: Shape, labels: Shape | None, dtype: str, label_dtype: str
) -> Layout:
    """The layout of a sampled loss: logits `[N, K]`, labels `[N, T]`."""
    if len(logits) != 2:
        raise expected_shape(config.op, "logits", logits, ("N", config.num_classes or "K"))
    rows, classes = logits
    num_true, count = sample_counts(config)
    if config.num_classes is not None:
        logits = fitting(config.op, "logits", logits, (rows, config.num_classes))
    elif isinstance(classes, int) and config.samples == "drawn" and count > classes:
        allowed = f"at most the number of classes, {classes}"
        raise expected(config.op, "num_samples", count, allowed)
    wanted: Shape = (rows, num_true)
    given = wanted if labels is None else fitting(config.op, "labels", labels, wanted)
    loss: Shape = (rows,) if config.attributes["reduction"] == "none" else ()
    if loss and config.loss_axis == "kept":
        loss = (rows, 1)
    return Layout(logits, 1, given, loss, dtype, label_dtype, dtype)


def _label_dtype(config: LossConfig, rank: int, dtype: str, given: str | None) -> str:
    if given is None:
        return dtype if config.takes_probabilities else "int64"
    allowed = {**FLOAT_DTYPES} if config.takes_probabilities else {**LABEL_DTYPES}
    if config.cast_labels:
        allowed = {**LABEL_DTYPES, **FLOAT_DTYPES}
    refused = config.refused
    reasons = dict.fromkeys(LABEL_DTYPES, refused.get("integer probabilities", ""))
    reasons["int32"] = refused.get("int32 labels", reasons["int32"])
    reasons["uint8"] = refused.get("uint8 labels", reasons["uint8"])
    if rank > 2:
        reasons["uint8"] = refused.get("uint8 labels of many axes", reasons["uint8"])
    allowed = {name: dtype for name, dtype in allowed.items() if not reasons.get(name)}
    if given not in allowed:
        reason = reasons.get(given, "")
        raise expected(config.op, "label_dtype", given, " or ".join(allowed), reason)
    return given


def _compute_dtype(config: LossConfig, dtype: str, label_dtype: str) -> str:
    """The dtype that the loss is computed in, after all promotion."""
    compute = promoted(dtype, config.compute_dtype or dtype)
    others = {}
    if config.takes_probabilities and not config.cast_labels:
        others["label_dtype"] = label_dtype
    if isinstance(config.class_weights, np.ndarray):
        others["dtype of class_weights"] = config.class_weights.dtype.name
    for name, other in others.items():
        if config.promote == "all" or (config.promote == "class weights" and name != "label_dtype"):
            compute = promoted(compute, other)
        elif other != dtype:
            raise expected(config.op, name, other, f"{dtype}, that of the logits")
    return compute


def _class_axis(config: LossConfig, logits: Shape) -> int:
    """The class axis, counted from the front; unbatched logits `[C]` have only one."""
    refused = config.refused
    rank, axis = len(logits), int(config.attributes["axis"])
    if rank == 0:
        raise expected(config.op, "logits", "a scalar", "a shape with a class axis")
    if rank == 1 and "unbatched logits" in refused:
        reason = refused["unbatched logits"]
        raise expected_shape(config.op, "logits", logits, ("N", "C", "..."), reason=reason)
    if rank == 1 and axis == 1:
        axis = 0
    if not -rank <= axis < rank:
        raise expected(config.op, "axis", axis, f"a number in [{-rank}, {rank - 1}]")
    axis %= rank
    if logits[axis] == 0:
        wanted, reason = _with_axis(logits, axis, "C"), "a loss needs a class"
        raise expected_shape(config.op, "logits", logits, wanted, reason=reason)
    if axis != rank - 1 and "inner axis" in refused:
        raise expected(config.op, "axis", axis, f"the last, {rank - 1}", refused["inner axis"])
    if 0 in _dropped(logits, axis) and "no positions" in refused:
        reason = refused["no positions"]
        raise expected(config.op, "logits", logits, "a position at least", reason)
    return axis


def _label_shape(config: LossConfig, logits: Shape, axis: int, given: Shape | None) -> Shape:
    allowed = [logits]
    if not config.takes_probabilities:
        dropped, kept = _dropped(logits, axis), _kept(logits, axis)
        ways = {"dropped": [dropped], "kept": [kept], "either": [dropped, kept]}
        allowed = ways[config.label_axis]
    labels = allowed[0] if given is None else fitting(config.op, "labels", given, *allowed)
    reason = config.refused.get("one class")
    if reason and logits[axis] == 1 and len(logits) != 2 and len(labels) < len(logits):
        raise expected_shape(config.op, "labels", labels, logits, reason=reason)
    return labels


def _dropped(logits: Shape, axis: int) -> Shape:
    """The logits' shape without the class axis."""
    return logits[:axis] + logits[axis + 1 :]


def _kept(logits: Shape, axis: int) -> Shape:
    """The logits' shape with a class axis of size 1."""
    return _with_axis(logits, axis, 1)


def _with_axis(logits: Shape, axis: int, size: int | str) -> Shape:
    """The logits' shape with another size of the class axis."""
    return logits[:axis] + (size,) + logits[axis + 1 :]
