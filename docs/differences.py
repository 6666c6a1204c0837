# SPDX-License-Identifier: MIT
"""docs/differences.md: what the frameworks answer, and where ours is another answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests import golden_cases, test_golden, test_golden_paddle, test_golden_tf
from tests.differences import RECORDED, SECTIONS
from tests.differences.answers import (
    CATEGORICAL,
    COLUMNS,
    DENSE,
    SPARSE,
    SPARSE_CATEGORICAL,
    V1,
    Answer,
    Row,
    Value,
)
from tests.differences.further import FURTHER

TARGET = Path(__file__).parent / "differences.md"

_INTRODUCTION = """\
# Differences between the frameworks

<!-- Written by docs/generate.py from tests/differences and tests/golden; do not edit. -->

The same loss with the same settings is not the same number everywhere. A loss from `from_torch`,
`from_paddle`, `from_tf` or `from_onnx` gives its own framework's number, but for artefacts of a
kernel, which are marked here: **ours** is then what the exported model gives, through the function
body, the library and inlined alike. Tests run each entry, ours and the framework's.

Logits are `[[1, 2, 3], [0.5, -1, 0.25]]`, labels `[2, 0]` or their one-hot rows, probabilities
`[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]` and class weights `[0.5, 2, 1]`, unless a row says
otherwise. Of a gradient the first row is shown. "refused" is an error when the loss is exported,
"error" one when the model runs; behind it is what the framework raises.

In the third column `v1` is `tf.compat.v1.losses.softmax_cross_entropy`, `dense` and `sparse` are
`tf.nn.softmax_cross_entropy_with_logits` and its sparse form; Keras's losses have
`from_logits=True` unless a row says otherwise.
"""

_SHORT = {
    V1: "v1",
    DENSE: "dense",
    SPARSE: "sparse",
    CATEGORICAL: "Keras",
    SPARSE_CATEGORICAL: "Keras sparse",
}

_RECORDED = """\
Cases that were recorded from the frameworks, with the first number that differs.
"""

_REFUSED = """\
Configurations with which Paddle gives the number of another loss than the one that was asked for.
They are refused when they are exported.
"""


def differences() -> str:
    """The page, as Markdown."""
    sections = [_INTRODUCTION]
    head = ("question", *COLUMNS.values(), "what follows")
    for title, rows in SECTIONS.items():
        sections += [f"## {title}", _table(head, map(_row, rows))]
    sections += ["## Recorded artefacts that are not reproduced", _RECORDED, _recorded()]
    sections += ["## Refused, though Paddle computes it", _REFUSED, _refused()]
    for title, statements in FURTHER.items():
        sections += [f"## {title}", "\n".join(f"* {entry.text}" for entry in statements)]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def named_differences() -> Mapping[str, str]:
    """The cases of the tests whose artefact is not reproduced: the id and the reason."""
    return {
        **test_golden.NAMED_DIFFERENCES,
        **test_golden_paddle.NAMED_DIFFERENCES,
        **test_golden_tf.NAMED_DIFFERENCES,
    }


def _row(row: Row) -> tuple[str, ...]:
    cells = (
        "; ".join(_answer(answer) for answer in row.answers if answer.column == column)
        for column in COLUMNS
    )
    return row.about, *(cell or "—" for cell in cells), row.advice


def _answer(answer: Answer) -> str:
    name = answer.note or _SHORT.get(answer.api, "")
    theirs = _value(answer.theirs, answer.of)
    if answer.expected in ("refused", "error") and isinstance(answer.theirs, str):
        text = f"{answer.expected} ({theirs})"
    elif answer.ours is None:
        text = theirs
    else:
        text = f"{theirs}, **ours {_value(answer.ours, answer.of)}**"
    return f"{name} {text}" if name else text


def _value(value: Value, of: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, tuple):
        return _number(value)
    if of == "shape":
        return f"({', '.join(str(int(size)) for size in value)}{',' * (len(value) == 1)})"
    return " ".join(map(_number, value))


def _number(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return str(value)
    return f"{value + 0.0:.15g}"


def _recorded() -> str:
    reasons = named_differences()
    cases = _golden()
    rows = []
    for recorded in RECORDED:
        case = cases[recorded.id]
        theirs = "error" if case.error else f"{case.arrays[recorded.of][recorded.at]:.6g}"
        rows.append(
            (
                recorded.id,
                _call(case),
                f"{recorded.of}{list(recorded.at) or ''}",
                theirs,
                _number(recorded.ours),
                reasons[recorded.id],
            )
        )
    return _table(("case", "loss", "output", "framework", "ours", "why"), rows)


def _refused() -> str:
    cases = _golden()
    rows = []
    for name, reason in test_golden_paddle.REFUSED.items():
        first = cases[name].arrays["loss"].ravel()[0]
        rows.append((name, _call(cases[name]), f"{first:.6g}", reason))
    return _table(("case", "loss", "Paddle's", "what is wrong"), rows)


def _golden() -> dict[str, golden_cases.GoldenCase]:
    return {
        case.id: case
        for framework in ("torch", "paddle", "tf")
        for case in golden_cases.load(framework)
    }


def _call(case: golden_cases.GoldenCase) -> str:
    settings = [f"{name}={json.dumps(value)}" for name, value in case.kwargs.items()]
    settings += ["weight=..."] if "weight" in case.arrays else []
    written = ", ".join(settings).replace("true", "True").replace("false", "False")
    return f"`{case.api.rpartition('.')[2]}({written})`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head)]
    lines += [("---",) * len(lines[0]), *map(tuple, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
