# SPDX-License-Identifier: MIT
"""Says of each loss of a model what it is, how it runs, and whether its two ways agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx

from .errors import LossError
from .library import library_path
from .node_trials import LossNode, losses_of, trial_of, without_body
from .trial import difference, dtype_names, inferred, make_session, run

AGREE = "agree"
DISAGREE = "disagree"
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Checked:
    """A loss of a model.

    Attributes:
        name: The node's name.
        op_type: Its operator.
        summary: What that computes, in a sentence.
        formula: The same as a formula.
        settings: Every attribute of the node.
        changed: The names of those that are not the operator's default.
        inputs: The value that each port gets.
        outputs: The values that it gives.
        fused: Whether a kernel of the library runs it.
        reason: Why none does, or an empty text.
        body_nodes: The size of its function body; 0 if the file has none.
        verdict: "agree", "disagree" or "not compared".
        difference: The largest difference of body and kernel, as a share of what rounding explains.
        details: The output with that difference, or why there was no comparison.
    """

    name: str
    op_type: str
    summary: str
    formula: str
    settings: dict[str, Any]
    changed: tuple[str, ...]
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    fused: bool
    reason: str
    body_nodes: int
    verdict: str
    difference: float | None
    details: str

    def as_json(self) -> dict[str, Any]:
        """The same for `json.dumps`, which has no infinity."""
        values = asdict(self)
        if self.difference == float("inf"):
            values["difference"] = None
        return values


def check(model: onnx.ModelProto) -> list[Checked]:
    """Checks each loss of a model by itself, on random data of the model's own shapes."""
    typed = inferred(model, "check")
    return [_checked(typed, loss) for loss in losses_of(typed)]


def _checked(model: onnx.ModelProto, loss: LossNode) -> Checked:
    fused, reason = False, ""
    verdict, share, details = NOT_COMPARED, None, ""
    try:
        trial = trial_of(model, loss)
    except LossError as error:
        reason = details = str(error)
    else:
        reason = _why_not_fused(trial.model)
        fused = not reason
        if loss.body is None:
            details = "the file has no function body for it"
        elif not fused:
            details = "there is no kernel to compare with"
        elif loss.draws:
            details = "body and kernel draw different samples"
        else:
            verdict, share, details = _compared(trial.model, dict(trial.feeds))
    defaults = {attribute.name: attribute.default for attribute in loss.op.attributes}
    return Checked(
        name=loss.name,
        op_type=loss.op.name,
        summary=loss.op.doc,
        formula=loss.spec.formula,
        settings=loss.settings,
        changed=tuple(name for name, value in loss.settings.items() if value != defaults.get(name)),
        inputs=loss.inputs,
        outputs=tuple(name for name in loss.node.output if name),
        fused=fused,
        reason=reason,
        body_nodes=len(loss.body.node) if loss.body else 0,
        verdict=verdict,
        difference=share,
        details=details,
    )


def _why_not_fused(alone: onnx.ModelProto) -> str:
    """What keeps the library from running the node, which has no body to run instead."""
    try:
        library_path()
    except LossError:
        return "the library is not installed"
    try:
        make_session(without_body(alone), library=True)
    except LossError as error:
        return str(error)
    return ""


def _compared(alone: onnx.ModelProto, feeds: dict[str, Any]) -> tuple[str, float | None, str]:
    try:
        body = run(alone, feeds)
        kernel = run(alone, feeds, library=True)
    except LossError as error:
        return DISAGREE, None, str(error)
    share, name = difference(body, kernel, dtype_names(alone))
    return (AGREE if share <= 1 else DISAGREE), share, name
