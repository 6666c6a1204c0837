# SPDX-License-Identifier: MIT
"""Writes the pages that are made: operators.md, differences.md and command_line.md."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docs import command_line, differences
from docs.latex import latex
from onnxloss.onnxscript_defs import (
    CATALOGUE,
    DOMAIN,
    OPSET_VERSION,
    TYPES,
    Attribute,
    LossSpec,
    OpSpec,
    Port,
)

TARGET = Path(__file__).parent / "operators.md"

_INTRODUCTION = f"""\
# Operators of the domain `{DOMAIN}`, version {OPSET_VERSION}

<!-- Written by docs/generate.py from onnxscript_defs/; do not edit. -->

Every loss is three operators: the loss, its gradient, and both in one reading of the logits. A
model that onnxloss writes carries each operator's meaning as a function of standard ONNX operators;
the library has a kernel for each. Attributes have no defaults in a model: a node writes them all.
The defaults below are those of `LossConfig`; those marked *derived* are the exporter's to write.
"""

_TYPE_ROLES = {
    "T": "logits, `dlogits`, and labels that are probabilities",
    "S": "losses, upstream gradients and weights: float64 for float64 logits, else float32",
    "Tind": "labels that are class indices",
}

_PREAMBLE = """\
>>> import numpy as np, onnx, onnxruntime, onnxloss
>>> logits = np.array([[2, 1, 0], [0, 3, 1]], np.float32)
"""

_LABELS = {
    "Tind": ("int64[N]", "np.array([0, 2])"),
    "T": ("float[N, 3]", "np.array([[1, 0, 0], [0, 0.25, 0.75]], np.float32)"),
}
"""Type and value of `labels` in the examples, by the type variable of the port."""


def main() -> None:
    """Writes the files."""
    for target, text in (
        (TARGET, operator_reference()),
        (differences.TARGET, differences.differences()),
        (command_line.TARGET, command_line.command_line()),
    ):
        target.write_text(text)
        print(target)


def operator_reference() -> str:
    """The reference, as Markdown."""
    contents = "\n".join(
        f"* [{spec.name}](#{spec.name.lower()}): {spec.summary}\n"
        + "\n".join(
            f"  * [{op.name}](#{_heading(op, spec).lower().replace(' ', '-')}): {op.doc}"
            for op in spec.ops
        )
        for spec in CATALOGUE
    )
    types = _table(
        ("type", "stands for", "used for"),
        ((f"`{name}`", ", ".join(names), _TYPE_ROLES[name]) for name, names in TYPES.items()),
    )
    sections = [_INTRODUCTION, contents, "## Types", types]
    for spec in CATALOGUE:
        sections += _loss_sections(spec)
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def _heading(op: OpSpec, spec: LossSpec) -> str:
    """An operator's heading; the loss's own name heads its family already."""
    return f"{op.name} alone" if op.name == spec.name else op.name


def _loss_sections(spec: LossSpec) -> list[str]:
    sections = [
        f"## {spec.name}",
        spec.summary,
        f"```math\n{latex(spec.formula)}\n```",
        "**Attributes** of all three operators:",
        _table(("attribute", "type", "default", "allowed", "meaning"), map(_row, spec.attributes)),
        "**Edge cases**",
        _list(spec.edge_cases),
        "**Sources**",
        _list(spec.sources),
    ]
    examples = (_forward_example, _gradient_example, _both_example)
    if spec.drawn:
        examples = (_sampled_example, _sampled_gradient_example, _sampled_both_example)
    for op, example in zip(spec.ops, examples, strict=True):
        sections += [
            f"### {_heading(op, spec)}",
            op.doc,
            _table(("input", "type", "shape", "meaning"), map(_port_row, op.inputs)),
            _table(("output", "type", "shape", "meaning"), map(_port_row, op.outputs)),
            f"```python\n{run_examples(_PREAMBLE + example(spec, op))}```",
        ]
    return sections


def _forward_example(spec: LossSpec, op: OpSpec) -> str:
    return f"""\
>>> labels = {_labels(spec)[1]}
>>> config = onnxloss.LossConfig("{op.name}", {{"label_smoothing": 0.1}})
>>> model = onnxloss.export(config, logits=("N", 3))
>>> session = onnxruntime.InferenceSession(model.SerializeToString())
>>> (loss,) = session.run(None, {{"logits": logits, "labels": labels}})
>>> print(loss.round(4))
"""


def _gradient_example(spec: LossSpec, op: OpSpec) -> str:
    """The node as text: exporters write it only inside training graphs."""
    given = [port.name for port in op.inputs if not port.optional]
    attributes = [f"{a.name} = {json.dumps(a.default)}" for a in spec.attributes]
    lines = [", ".join(attributes[i : i + 3]) for i in range(0, len(attributes), 3)]
    joined = ",\n...     ".join(lines)
    return f"""\
>>> labels = {_labels(spec)[1]}
>>> model = onnx.parser.parse_model(\"\"\"
... <ir_version: 9, opset_import: ["": 19, "{DOMAIN}": {OPSET_VERSION}]>
... example (float dloss, float[N, 3] logits, {_labels(spec)[0]} labels) => (float[N, 3] dlogits) {{
...   dlogits = {DOMAIN}.{op.name} <
...     {joined}>
...     ({", ".join(given)})
... }}\"\"\")
>>> options = onnxruntime.SessionOptions()
>>> onnxloss.register(options)
>>> session = onnxruntime.InferenceSession(model.SerializeToString(), options)
>>> feeds = {{"dloss": np.array(1, np.float32), "logits": logits, "labels": labels}}
>>> print(session.run(None, feeds)[0].round(4))
"""


def _both_example(spec: LossSpec, op: OpSpec) -> str:
    return f"""\
>>> labels = {_labels(spec)[1]}
>>> config = onnxloss.LossConfig("{spec.name}", {{"reduction": "none"}})
>>> model = onnxloss.export(config, logits=("N", 3), gradient=True)
>>> [node.op_type for node in model.graph.node]
>>> session = onnxruntime.InferenceSession(model.SerializeToString())
>>> feeds = {{"dloss": np.array([1, 10], np.float32), "logits": logits, "labels": labels}}
>>> loss, dlogits = session.run(None, feeds)
>>> print(loss.round(4))
>>> print(dlogits.round(4))
"""


def _sampled_example(spec: LossSpec, op: OpSpec) -> str:
    """The samples are the kernel's, for the seed."""
    return f"""\
>>> labels = np.array([[0], [2]])
>>> config = onnxloss.LossConfig("{op.name}", {{"num_samples": 2, "seed": 1}})
>>> model = onnxloss.export(config, logits=("N", 3), outputs=("loss", "drawn_samples"))
>>> options = onnxruntime.SessionOptions()
>>> onnxloss.register(options)
>>> session = onnxruntime.InferenceSession(model.SerializeToString(), options)
>>> loss, samples = session.run(None, {{"logits": logits, "labels": labels}})
>>> print(loss.round(4), samples)
"""


def _sampled_gradient_example(spec: LossSpec, op: OpSpec) -> str:
    """The node as text: exporters write the one that gives both."""
    attributes = [f"{a.name} = {json.dumps(a.default)}" for a in spec.attributes]
    joined = ",\n...     ".join((", ".join(attributes[:3]), ", ".join(attributes[3:])))
    return f"""\
>>> model = onnx.parser.parse_model(\"\"\"
... <ir_version: 9, opset_import: ["": 19, "{DOMAIN}": {OPSET_VERSION}]>
... example (float[N] dloss, float[N, 3] logits, int64[N, 1] labels, int64[1] samples,
...          float[N, 2] probabilities) => (float[N, 3] dlogits) {{
...   dlogits = {DOMAIN}.{op.name} <
...     {joined}>
...     ({", ".join(port.name for port in op.inputs)})
... }}\"\"\")
>>> options = onnxruntime.SessionOptions()
>>> onnxloss.register(options)
>>> session = onnxruntime.InferenceSession(model.SerializeToString(), options)
>>> feeds = {{"dloss": np.array([1, 10], np.float32), "logits": logits}}
>>> feeds |= {{"labels": np.array([[0], [2]]), "samples": np.array([1])}}
>>> feeds |= {{"probabilities": np.array([[0.5, 0.3], [0.2, 0.3]], np.float32)}}
>>> print(session.run(None, feeds)[0].round(4))
"""


def _sampled_both_example(spec: LossSpec, op: OpSpec) -> str:
    """Customised samples, which every runtime has the same numbers for."""
    return """\
>>> api = "paddle.fluid.layers.sampled_softmax_with_cross_entropy"
>>> config = onnxloss.from_paddle(api, num_samples=1, use_customized_samples=True)
>>> model = onnxloss.export(config, logits=("N", 3), gradient=True)
>>> [value.name for value in model.graph.input]
>>> session = onnxruntime.InferenceSession(model.SerializeToString())
>>> feeds = {"dloss": np.array([[1], [10]], np.float32), "logits": logits}
>>> feeds |= {"labels": np.array([[0], [2]]), "samples": np.array([[0, 1], [2, 1]])}
>>> feeds |= {"probabilities": np.array([[0.5, 0.3], [0.2, 0.3]], np.float32)}
>>> loss, dlogits = session.run(None, feeds)
>>> print(loss.round(4))
>>> print(dlogits.round(4))
"""


def _labels(spec: LossSpec) -> tuple[str, str]:
    return _LABELS[next(port.type for port in spec.inputs if port.name == "labels")]


def run_examples(source: str) -> str:
    """The statements of an interactive session, each with what it prints below it."""
    shown: list[str] = []
    names: dict[str, Any] = {}
    for statement in source.split(">>> ")[1:]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(statement.replace("\n... ", "\n"), "<example>", "single"), names)
        shown += [f">>> {statement}", printed.getvalue()]
    return "".join(shown)


def _row(attribute: Attribute) -> tuple[str, ...]:
    kind = type(attribute.default).__name__
    default = "*derived*" if attribute.derived else f"`{attribute.default}`"
    return f"`{attribute.name}`", kind, default, attribute.allowed, attribute.doc


def _port_row(port: Port) -> tuple[str, ...]:
    name = f"`{port.name}`" + (" (optional)" if port.optional else "")
    shape = f"`{port.shape}`" if port.shape.startswith("[") else port.shape
    return name, f"`{port.type}`", shape, port.doc


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines
    )


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"* {item}" for item in items)


if __name__ == "__main__":
    main()
