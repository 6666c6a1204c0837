# SPDX-License-Identifier: MIT
"""Measures who runs the models: `python -m models.portability` writes docs/portability.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner

from models.backend_tests import ROOT, model_of
from models.examples import EXAMPLES, Example
from onnxloss.library import library_path
from onnxloss.trial import without_bfloat16

PAGE = ROOT.parent / "docs" / "portability.md"
RUNNER = ROOT / "run_with.py"


@dataclass(frozen=True)
class Column:
    """A runtime: its title, what `run_with.py` calls it, and how it gets the models.

    `interpreter` names the variable that holds its environment's Python, and the place where
    `make` puts that environment; without it the runtime is here.
    """

    title: str
    runtime: str
    library: bool = False
    inlined: bool = False
    interpreter: tuple[str, str] | None = None

    @property
    def python(self) -> str:
        """The interpreter that has it."""
        if self.interpreter is None:
            return sys.executable
        variable, folder = self.interpreter
        return os.environ.get(variable, str(ROOT.parent / folder / "bin" / "python"))


_ORT_TRAINING = ("ONNXLOSS_ORT_TRAINING_PYTHON", ".venv-ort-training")
_OPENVINO = ("ONNXLOSS_OPENVINO_PYTHON", ".venv-openvino")

COLUMNS: tuple[Column, ...] = (
    Column("ONNX Runtime, function body", "onnxruntime"),
    Column("ONNX Runtime, library", "onnxruntime", library=True),
    Column("ONNX Runtime training, function body", "onnxruntime", interpreter=_ORT_TRAINING),
    Column("ONNX Runtime training, library", "onnxruntime", True, interpreter=_ORT_TRAINING),
    Column("onnx.reference", "onnx"),
    Column("OpenVINO", "openvino", interpreter=_OPENVINO),
    Column("OpenVINO, inlined", "openvino", inlined=True, interpreter=_OPENVINO),
)


@dataclass(frozen=True)
class Measured:
    """A column's answers: the runtime's version, and for each model "yes" or what went wrong."""

    version: str
    results: dict[str, str]


def measure(column: Column) -> Measured:
    """Runs every model in a column's runtime."""
    with tempfile.TemporaryDirectory() as folder:
        for example in EXAMPLES:
            _prepare(example, Path(folder), inlined=column.inlined)
        library = [library_path()] if column.library else []
        done = subprocess.run(
            [column.python, RUNNER, column.runtime, folder, *library],
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    if done.returncode:
        raise RuntimeError(f"{column.title}: {done.stderr[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def page(measured: dict[str, Measured]) -> str:
    """The page for what was measured, by the columns' titles."""
    messages: dict[str, int] = {}
    lines = [_HEAD]
    lines += [f"* {title}: {found.version}" for title, found in measured.items()]
    lines += ["", f"| model | {' | '.join(measured)} |", f"| --- |{' :-: |' * len(measured)}"]
    for example in EXAMPLES:
        cells = []
        for found in measured.values():
            answer = found.results[example.folder].replace(example.op.name, "<operator>")
            number = messages.setdefault(answer, len(messages) + 1) if answer != "yes" else 0
            cells.append(f"[{number}]" if number else "yes")
        lines.append(f"| {example.folder} | {' | '.join(cells)} |")
    count = ", ".join(
        f"{title} {sum(answer == 'yes' for answer in found.results.values())}"
        for title, found in measured.items()
    )
    lines += ["", f"Of {len(EXAMPLES)} models run right: {count}.", ""]
    lines += [f"{number}. `{message}`" for message, number in messages.items()]
    return "\n".join(lines) + "\n"


def written() -> dict[str, Measured]:
    """What the page says, by the columns' titles."""
    text = PAGE.read_text()
    messages = dict(re.findall(r"^(\d+)\. `(.*)`$", text, re.M))
    versions = dict(re.findall(r"^\* (.*): (.*)$", text, re.M))
    operators = {example.folder: example.op.name for example in EXAMPLES}
    results: dict[str, dict[str, str]] = {title: {} for title in versions}
    for line in re.findall(r"^\| (s.*) \|$", text, re.M):
        folder, *cells = line.split(" | ")
        for title, cell in zip(versions, cells, strict=True):
            answer = messages[cell.strip("[]")] if cell != "yes" else cell
            results[title][folder] = answer.replace("<operator>", operators[folder])
    return {title: Measured(version, results[title]) for title, version in versions.items()}


def _prepare(example: Example, folder: Path, *, inlined: bool) -> None:
    """The model and its arrays, with float32 for bfloat16, which numpy has not."""
    model = model_of(example)
    if inlined:
        model = onnx.inliner.inline_local_functions(model)
    onnx.save(without_bfloat16(model), folder / f"{example.folder}.onnx")
    arrays = dict(_arrays(example))
    np.savez(folder / f"{example.folder}.npz", **arrays)


def _arrays(example: Example) -> Iterator[tuple[str, np.ndarray]]:
    for kind, arrays in (("in", example.inputs), ("out", example.outputs)):
        for name, array in arrays.items():
            wide = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
            yield f"{kind}.{name}", wide
    yield "unit", np.asarray(float(ml_dtypes.finfo(example.dtype).eps))


_HEAD = """# Who runs the models

The models of `models/`, each one node of this project with its function and with inputs and
outputs in the layout of ONNX's backend tests, in the runtimes below. *yes*: every output is within
16 units in the last place of the float64 reference, times max(1, |value|). A number stands for the
runtime's message below. *Inlined*: after `onnx.inliner.inline_local_functions`, as
`onnxloss.export(..., inline=True)` writes a model. The inputs and outputs of the bfloat16 model are
float32 with a Cast here. `make portability` writes this page.

Versions:
"""

if __name__ == "__main__":
    PAGE.write_text(page({column.title: measure(column) for column in COLUMNS}))
    print(PAGE)
