# SPDX-License-Identifier: MIT
"""The one table of cases: each trait in dtypes, label dtypes and reductions.

A case's id says `loss-shape-dtype-trait-reduction`, and its random numbers are seeded from it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from tests import reference
from tests.drafts import Draft, Trait
from tests.mean_traits import HARD_MEANS, SOFT_MEANS
from tests.option_traits import HARD_OPTIONS, SHARED_OPTIONS, SOFT_OPTIONS
from tests.traits import HARD_ONLY, NARROW_ONLY, SHARED, SOFT_ONLY, WIDE_ONLY

HARD = "softmax_cross_entropy_loss"
SOFT = "soft_label_cross_entropy_loss"
OPS = {HARD: "SoftmaxCrossEntropyLoss", SOFT: "SoftLabelCrossEntropyLoss"}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
REDUCTIONS = ("mean", "sum", "none")
WITHOUT_LABELS = ("class_weighting", "z_loss")
"""The attributes on which the gradient by the labels does not depend."""


@dataclass(frozen=True)
class Inputs:
    """What a case feeds: arrays in the dtypes of the exported graph."""

    logits: np.ndarray
    labels: np.ndarray
    dloss: np.ndarray
    class_weights: np.ndarray | None
    sample_weights: np.ndarray | None

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """The graph inputs by name; class weights are an initializer."""
        given = {"logits": self.logits, "labels": self.labels, "dloss": self.dloss}
        if self.sample_weights is not None:
            given["sample_weights"] = self.sample_weights
        return given


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    loss: str
    trait: Trait
    dtype: str
    label_dtype: str
    reduction: str

    @property
    def id(self) -> str:
        """`loss-shape-dtype-trait-reduction`."""
        shape = "x".join(map(str, self.trait.shape))
        return f"{self.loss}-{shape}-{self.dtype}-{self.trait.name}-{self.reduction}"

    @property
    def op(self) -> str:
        """The operator's name."""
        return OPS[self.loss]

    @property
    def classes(self) -> int:
        """C."""
        return self.trait.shape[self.trait.axis]

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings, as `LossConfig` takes them."""
        return {**self.trait.settings, "axis": self.trait.axis, "reduction": self.reduction}

    @cached_property
    def inputs(self) -> Inputs:
        """The arrays, the same in every run."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        shape, axis, dtype = self.trait.shape, self.trait.axis, DTYPES[self.dtype]
        moved = (*np.delete(shape, axis), shape[axis])
        classes = shape[axis]
        draft = Draft(
            rng,
            logits=3 * rng.standard_normal(moved),
            labels=rng.integers(0, classes, moved[:-1])
            if self.loss == HARD
            else rng.dirichlet(np.ones(classes), moved[:-1]),
            weights=rng.uniform(0.1, 3.0, classes) if self.trait.weighted else None,
            sample_weights=np.asarray(rng.uniform(0.25, 1.5, moved[:-1]))
            if self.trait.sampled
            else None,
        )
        self.trait.change(draft)
        labels = draft.labels
        if self.loss == SOFT:
            labels = np.moveaxis(labels, -1, axis)
        return Inputs(
            # C order: a transposed view has the right numbers, but is no buffer to hand over.
            logits=np.moveaxis(draft.logits, -1, axis).astype(dtype, order="C"),
            labels=np.asarray(labels).astype(self.label_dtype, order="C"),
            dloss=rng.uniform(0.25, 2.0, moved[:-1] if self.reduction == "none" else ()).astype(
                dtype
            )
            if self.reduction == "none"
            else np.asarray(rng.uniform(0.25, 2.0), dtype),
            class_weights=None if draft.weights is None else draft.weights.astype(dtype),
            sample_weights=None
            if draft.sample_weights is None
            else draft.sample_weights.astype(dtype),
        )

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """The outputs for the inputs as they are after rounding, in float64."""
        given = self.inputs
        loss, dlogits = getattr(reference, self.loss)(
            given.logits,
            given.labels,
            given.dloss,
            given.class_weights,
            given.sample_weights,
            **self.attributes,
        )
        truth = {"loss": loss, "dlogits": dlogits}
        if self.trait.lse:
            truth["lse"] = reference.lse(given.logits, **reference.of_lse(self.attributes))
        if self.label_gradient:
            settings = {k: v for k, v in self.attributes.items() if k not in WITHOUT_LABELS}
            truth["dlabels"] = reference.label_gradient(
                given.logits, given.dloss, given.class_weights, given.sample_weights, **settings
            )
        return truth

    @property
    def label_gradient(self) -> bool:
        """Whether the case has the gradient by the labels: one reduction is without.

        A capped logit is rounded in units of the cap, which the tolerance of a difference of two
        does not know: these have a test of their own.
        """
        other = {"class_weighting": "position"}.items() & self.attributes.items()
        capped = "logit_softcap" in self.attributes
        return self.loss == SOFT and self.reduction != "sum" and not (other or capped)

    @property
    def optional_outputs(self) -> tuple[str, ...]:
        """The outputs that a node of the case has beside loss and dlogits."""
        chosen = (self.trait.lse, self.label_gradient)
        return tuple(name for name, there in zip(("lse", "dlabels"), chosen, strict=True) if there)

    def dtype_of(self, output: str) -> str:
        """The dtype of an output: the logits', but for lse, which is S."""
        if output == "lse" and self.dtype != "float64":
            return "float32"
        return self.dtype


def _cases(loss: str, traits: tuple[Trait, ...]) -> list[Case]:
    """float32 in every reduction; each other dtype in one, another for the next trait."""
    cases = []
    for row, trait in enumerate(traits):
        for column, dtype in enumerate(DTYPES):
            if (trait is WIDE_ONLY) != (column < 2) and trait in (WIDE_ONLY, NARROW_ONLY):
                continue
            chosen = REDUCTIONS if column == 0 else (REDUCTIONS[(row + column) % 3],)
            for turn, reduction in enumerate(chosen):
                integer = ("int64", "int32")[(row + column + turn) % 2]
                label_dtype = integer if loss == HARD else dtype
                cases.append(Case(loss, trait, dtype, label_dtype, reduction))
    return cases


def _option_cases(loss: str, traits: tuple[Trait, ...]) -> list[Case]:
    """Each trait in float32 and another dtype or two, in two reductions.

    50 ms go into the function body of each new combination of attributes, to which float32 and the
    16-bit dtypes are the same: what both losses share is tried in float64 with one of them and in
    16 bits with the other, and a mean's trait has one dtype, in turn.
    """
    cases = []
    for row, trait in enumerate(traits):
        narrow = ("float16", "bfloat16")[row // 2 % 2]
        dtypes: tuple[str, ...] = ("float32", "float64", narrow)
        if trait.reductions == ("mean",):
            dtypes = (tuple(DTYPES)[row % 4],)
        elif trait in SHARED_OPTIONS:
            dtypes = ("float32", "float64" if row % 2 == (loss == HARD) else narrow)
        for column, dtype in enumerate(dtypes):
            if dtype in trait.dtypes:
                turn = row + (dtype == "float64")
                reduction = trait.reductions[turn % len(trait.reductions)]
                integer = ("int64", "int32")[(row // 2 + column) % 2]
                label_dtype = integer if loss == HARD else dtype
                cases.append(Case(loss, trait, dtype, label_dtype, reduction))
    return cases


CASES: tuple[Case, ...] = (
    *_cases(HARD, (*SHARED, *HARD_ONLY, WIDE_ONLY, NARROW_ONLY)),
    *_cases(SOFT, (*SHARED, *SOFT_ONLY, WIDE_ONLY, NARROW_ONLY)),
    *_option_cases(HARD, (*SHARED_OPTIONS, *HARD_OPTIONS, *HARD_MEANS)),
    *_option_cases(SOFT, (*SHARED_OPTIONS, *SOFT_OPTIONS, *SOFT_MEANS)),
)
