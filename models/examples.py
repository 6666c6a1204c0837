# SPDX-License-Identifier: MIT
"""The table of models that any backend can test itself with: operators, settings, inputs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from onnxloss.onnxscript_defs import CATALOGUE, LossSpec, OpSpec
from tests import reference, sampled
from tests.cases import DTYPES
from tests.models import node_attributes, stash_dtype

HARD, SOFT, SAMPLED = CATALOGUE
STEMS = {
    HARD.name: "softmax_cross_entropy_loss",
    SOFT.name: "soft_label_cross_entropy_loss",
    SAMPLED.name: "sampled_softmax_cross_entropy_loss",
}
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """A node of an operator with its settings, the shape of its logits, and what else it takes.

    `has` names its optional inputs and outputs. The seed is for float64 outputs: one that gives
    the same bits with each of numpy's instruction sets. Without `folded` its function refers to
    the node's attributes and branches on them.
    """

    spec: LossSpec
    op: OpSpec
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (4, 5)
    dtype: str = "float32"
    label_dtype: str = "int64"
    has: tuple[str, ...] = ()
    ignoring: bool = False
    folded: bool = True
    seed: int = 0

    @property
    def folder(self) -> str:
        """The folder's name: the operator, and what is special."""
        suffix = self.op.name.removeprefix(self.spec.name)
        kind = {"": "", "Grad": "_grad", "AndGrad": "_and_grad"}[suffix]
        return f"{STEMS[self.spec.name]}{kind}_{self.name}"

    @property
    def attributes(self) -> dict[str, Any]:
        """Every attribute of the node."""
        values = node_attributes(self.spec, self.dtype, self.settings)
        return {attribute.name: values[attribute.name] for attribute in self.op.attributes}

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """An array for each port, in the operator's order; the same in every run."""
        rng = np.random.default_rng(zlib.crc32(self.folder.encode()) + self.seed)
        arrays = self._arrays(rng)
        ports = [port.name for port in self.op.inputs]
        needed = [port.name for port in self.op.inputs if not port.optional]
        return {name: arrays[name] for name in ports if name in (*needed, *self.has)}

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """What the reference gives for the inputs as they are, in the outputs' dtypes."""
        truth = self._sampled_truth() if self.spec is SAMPLED else self._truth()
        dtypes = {"T": DTYPES[self.dtype], "S": stash_dtype(self.dtype)}
        return {
            port.name: np.asarray(truth[port.name]).astype(dtypes[port.type])
            for port in self.op.outputs_with(self.has)
        }

    def _arrays(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        dtype, shape = DTYPES[self.dtype], self.shape
        axis = self.attributes.get("axis", 1) % len(shape)
        positions = shape[:axis] + shape[axis + 1 :]
        classes = shape[axis]
        true, count = self.settings.get("num_true", 1), self.settings.get("num_samples", 1)
        logits = 3 * rng.standard_normal(shape)
        if self.settings.get("from_logits") == 0:
            logits = rng.uniform(0.05, 0.9, shape)
        if self.spec is SOFT:
            labels = np.moveaxis(rng.dirichlet(np.ones(classes), positions), -1, axis).astype(dtype)
        else:
            wanted = (shape[0], true) if self.spec is SAMPLED else positions
            labels = rng.integers(0, classes, wanted).astype(self.label_dtype)
            if self.ignoring:
                labels.reshape(-1)[:2] = IGNORED
        unreduced = self.attributes["reduction"] == "none"
        arrays = {
            "dloss": rng.uniform(0.5, 1.5, positions if unreduced else ()),
            "class_weights": rng.uniform(0.25, 2.0, classes),
            "sample_weights": rng.uniform(0.25, 2.0, positions),
            "probabilities": rng.uniform(0.1, 1.0, (shape[0], true + count)),
        }
        arrays = {
            name: np.asarray(array).astype(stash_dtype(self.dtype))
            for name, array in arrays.items()
        }
        samples = rng.permutation(classes)[:count].astype(np.int64)
        return arrays | {"logits": logits.astype(dtype), "labels": labels, "samples": samples}

    def _truth(self) -> dict[str, np.ndarray]:
        given = self.inputs
        weights = [given.get(name) for name in ("class_weights", "sample_weights")]
        function = getattr(reference, STEMS[self.spec.name])
        dloss = given.get("dloss", np.ones(()))
        loss, dlogits = function(given["logits"], given["labels"], dloss, *weights, **self.settings)
        truth = {"loss": loss, "dlogits": dlogits}
        truth["lse"] = reference.lse(given["logits"], **reference.of_lse(self.settings))
        if "dlabels" in self.has:
            truth["dlabels"] = reference.label_gradient(
                given["logits"], dloss, *weights, **self.settings
            )
        return truth

    def _sampled_truth(self) -> dict[str, np.ndarray]:
        given, attributes = self.inputs, self.attributes
        rows = self.shape[0]
        mean = attributes["reduction"] == "mean"
        dloss = np.asarray(given.get("dloss", np.ones(())), np.float64)
        options = ("z_loss", "logit_softcap")
        truth = sampled.truth(
            *(given[name] for name in ("logits", "labels", "samples", "probabilities")),
            dloss / rows if mean else dloss,
            remove_accidental_hits=bool(attributes["remove_accidental_hits"]),
            **{name: attributes[name] for name in options},
        )
        if attributes["reduction"] != "none":
            truth["loss"] = truth["loss"].mean() if mean else truth["loss"].sum()
        return truth


def _of(spec: LossSpec, name: str, **options: Any) -> tuple[Example, Example, Example]:
    """All three operators of a loss; an output belongs to those that have it."""
    has = options.pop("has", ())
    return tuple(  # type: ignore[return-value]  # a LossSpec has three operators
        Example(
            spec,
            op,
            name,
            has=tuple(
                port.name
                for port in (*op.inputs, *op.outputs)
                if port.optional and port.name in has
            ),
            **options,
        )
        for op in spec.ops
    )


_GIVEN = ("samples", "probabilities")
_DRAWS = {"num_samples": 4, "num_true": 2}

EXAMPLES: tuple[Example, ...] = (
    # Each operator as plain as it can be.
    *_of(HARD, "mean"),
    *_of(SOFT, "mean"),
    *_of(SAMPLED, "none", settings=_DRAWS, shape=(3, 12), has=_GIVEN),
    # Each operator with its weights, and all that it can give.
    *_of(
        HARD,
        "weighted_smoothed_ignoring",
        settings={"label_smoothing": 0.125},
        has=("class_weights", "sample_weights", "lse"),
        ignoring=True,
    ),
    *_of(
        SOFT,
        "weighted_smoothed_none",
        settings={"label_smoothing": 0.125, "reduction": "none"},
        has=("class_weights", "sample_weights", "lse", "dlabels"),
    ),
    *_of(
        SAMPLED,
        "mean_keeping_hits",
        settings={**_DRAWS, "remove_accidental_hits": 0, "reduction": "mean"},
        shape=(3, 12),
        has=(*_GIVEN, "lse"),
    ),
    # Class axes that are not the last, and not second.
    Example(HARD, HARD.loss_and_grad, "kdim_sum", {"reduction": "sum"}, (2, 3, 2, 2)),
    Example(HARD, HARD.forward, "axis_last_none", {"axis": -1, "reduction": "none"}, (2, 3, 4)),
    Example(SOFT, SOFT.loss_and_grad, "axis_first", {"axis": 0}, (5, 3)),
    # The other dtypes.
    Example(HARD, HARD.loss_and_grad, "float16", {}, dtype="float16", label_dtype="int32"),
    Example(HARD, HARD.loss_and_grad, "bfloat16", {}, dtype="bfloat16"),
    Example(HARD, HARD.loss_and_grad, "float64", {"label_smoothing": 0.1}, dtype="float64", seed=1),
    Example(SOFT, SOFT.loss_and_grad, "float16", {}, dtype="float16"),
    # What each framework needs: its means, weights, probabilities.
    Example(
        HARD,
        HARD.loss_and_grad,
        "paddle_weights",
        {"class_weighting": "position", "label_smoothing": 0.125, "empty_mean": "sum"},
        has=("class_weights",),
    ),
    Example(
        HARD,
        HARD.loss_and_grad,
        "tensorflow_mean",
        {"mean_over": "nonzero", "empty_mean": "zero"},
        has=("sample_weights",),
    ),
    Example(HARD, HARD.loss_and_grad, "probabilities", {"from_logits": 0}),
    Example(
        SOFT,
        SOFT.loss_and_grad,
        "normalized_before_clip",
        {"from_logits": 0, "normalize": "before_clip", "epsilon": 0.0625},
        has=("lse", "dlabels"),
    ),
    Example(
        HARD,
        HARD.loss_and_grad,
        "normalized_after_clip",
        {"from_logits": 0, "normalize": "after_clip", "epsilon": 0.0625},
        has=("lse",),
    ),
    Example(HARD, HARD.loss_and_grad, "z_loss_softcap", {"z_loss": 0.125, "logit_softcap": 4.0}),
    # The generic function, which branches on the node's attributes with If.
    Example(HARD, HARD.forward, "generic", folded=False),
)
