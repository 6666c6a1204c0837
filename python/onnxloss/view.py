# SPDX-License-Identifier: MIT
"""Opens a model in Netron, with our operators documented and coloured as losses."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from .documentation import attribute_doc, function_doc
from .errors import LossError
from .onnxscript_defs import CATALOGUE, DOMAIN, OPSET_VERSION, LossSpec, OpSpec

CATEGORY = "Loss"
# The sidebar is made wide enough for the formulas, and addresses of sources are broken.
_STYLE = f"""
.node-item-type-{CATEGORY.lower()} path {{ fill: rgb(140, 40, 90); }}
#sidebar:has(.sidebar-documentation) {{ min-width: min(640px, 60vw); }}
#sidebar .sidebar-documentation pre code {{ font-size: 10px; }}
#sidebar .sidebar-documentation a {{ overflow-wrap: anywhere; }}
"""
# A node with a function has the function for its type, which Netron gives no category.
_FUNCTION_TYPE = "this.description = func.doc_string;"
_FUNCTION_CATEGORY = f"if (func.domain === '{DOMAIN}') {{ this.category = '{CATEGORY}'; }}"


def view(model: Path, *, host: str = "localhost", port: int = 0, browse: bool = True) -> None:
    """Serves a model to a browser with Netron until the process is interrupted.

    Netron runs from a copy of its own files that knows our operators; what is installed stays as
    it is. A future Netron whose files are other shows the model in its own colours.

    Args:
        model: The ONNX file.
        host: The address to serve at.
        port: The port to serve at; 0 is any free one.
        browse: Whether to open a browser.

    Raises:
        LossError: Netron is not installed.
        OSError: The address cannot be served at.
    """
    installed = importlib.util.find_spec("netron")
    if installed is None or installed.origin is None:
        raise LossError('view: netron is not installed; get it with: pip install "onnxloss[view]"')
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: sys.exit())  # an exception, so that the copy is removed
    with tempfile.TemporaryDirectory(prefix="onnxloss-view-") as folder:
        copy = Path(folder) / "netron"
        shutil.copytree(Path(installed.origin).parent, copy)
        _teach(copy)
        sys.path.insert(0, folder)
        netron = importlib.import_module("netron")
        netron.start(str(model), (host, port), browse)
        netron.wait()


def operator_types() -> list[dict[str, Any]]:
    """Every operator, in the form of Netron's onnx-metadata.json."""
    return [_operator_type(spec, op) for spec in CATALOGUE for op in spec.ops]


def _teach(netron: Path) -> None:
    """Adds our operators to Netron's files."""
    metadata = netron / "onnx-metadata.json"
    metadata.write_text(json.dumps([*json.loads(metadata.read_text()), *operator_types()]))
    reader = netron / "onnx.js"
    source = reader.read_text()
    reader.write_text(source.replace(_FUNCTION_TYPE, _FUNCTION_TYPE + _FUNCTION_CATEGORY))
    style = netron / "grapher.css"
    style.write_text(style.read_text() + _STYLE)


def _operator_type(spec: LossSpec, op: OpSpec) -> dict[str, Any]:
    kinds = {int: "int64", float: "float32", str: "string"}
    return {
        "name": op.name,
        "module": DOMAIN,
        "version": OPSET_VERSION,
        "category": CATEGORY,
        "description": function_doc(spec, op),
        "attributes": [
            {
                "name": attribute.name,
                "type": kinds[type(attribute.default)],
                "description": attribute_doc(attribute),
            }
            for attribute in op.attributes
        ],
        "inputs": [{"name": port.name, "type": port.type} for port in op.inputs],
        "outputs": [{"name": port.name, "type": port.type} for port in op.outputs],
    }
