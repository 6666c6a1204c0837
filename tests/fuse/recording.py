# SPDX-License-Identifier: MIT
"""How an exporter's model is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx

FOLDER = Path(__file__).with_name("models")


def record(
    exporter: str,
    names: Iterable[str],
    make: Callable[[str], onnx.ModelProto],
    folder: Path = FOLDER,
) -> None:
    """Writes the models that `make` gives for `names`, in the place of those that were there."""
    for old in folder.glob(f"{exporter}-*.onnx"):
        old.unlink()
    for name in names:
        path = folder / f"{exporter}-{name}.onnx"
        path.write_bytes(bare(make(name)).SerializeToString(deterministic=True))
        print(path.name)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what its exporter says of source lines: they name the machine's paths."""
    graph = model.graph
    for entry in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]
    for holder in (graph, model):
        holder.doc_string = ""
        del holder.metadata_props[:]
    return model
