# SPDX-License-Identifier: MIT
"""The command line: `onnxloss export | append | train-step | info`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from . import __version__
from .cli_options import HYPERPARAMETERS, STEP_SETTINGS, make_parser, one_line
from .config import LossConfig
from .errors import LossError, expected
from .export import append_to, export
from .from_onnx import from_onnx
from .from_paddle import from_paddle
from .from_tf import from_tf
from .from_torch import from_torch
from .library import library_path
from .onnxscript_defs import CATALOGUE, DOMAIN
from .training import training_step

REFUSED = 1
"""The exit code for a command that was refused or failed."""

_FROM: dict[str, Callable[..., LossConfig]] = {
    "torch": from_torch,
    "paddle": from_paddle,
    "tf": from_tf,
    "keras": from_tf,
    "SoftmaxCrossEntropyLoss": from_onnx,
}
"""The exporter of each API, by the first part of the API's name."""

_DIRECT_SETTINGS = (
    "weight",
    "ignore_index",
    "reduction",
    "label_smoothing",
    "target",
    "z_loss",
    "logit_softcap",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 1 if the command was refused or failed, with one line on stderr that says why. A
        command line that cannot be read ends the process with 2, as is usual.
    """
    options = make_parser(_COMMANDS).parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            options.run(options)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has seen enough; Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (LossError, OSError, onnx.checker.ValidationError) as error:
            _print_error(error)
            return REFUSED
    return 0


def _export(options: argparse.Namespace) -> None:
    config = _config(options)
    model = export(
        config,
        logits=options.logits,
        dtype=options.dtype,
        **_given(options, ("labels", "sample_weights", "outputs")),
        **_common(options),
    )
    _save(model, options)


def _append(options: argparse.Namespace) -> None:
    model = append_to(
        _load(options.model),
        _config(options),
        **_given(options, ("logits", "labels", "sample_weights", "loss", "dloss", "dlogits")),
        **_common(options),
    )
    _save(model, options)


def _train_step(options: argparse.Namespace) -> None:
    model = training_step(
        _load(options.model),
        _config(options),
        optimizer=options.optimizer,
        **_given(options, ("logits", "labels", "label_dtype", "parameters")),
        **_given(options, (*HYPERPARAMETERS, *STEP_SETTINGS)),
    )
    _save(model, options)


def _info(options: argparse.Namespace) -> None:
    model = _load(options.model)
    opsets = ", ".join(
        f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import
    )
    producer = f"{model.producer_name} {model.producer_version}".strip() or "not named"
    print(f"model      {options.model}")
    print(f"versions   IR {model.ir_version}, {opsets}; producer {producer}")
    for entry in model.metadata_props:
        if entry.key.startswith(f"{DOMAIN}."):
            print(f"metadata   {entry.key}: {entry.value}")
    try:
        print(f"library    installed, {library_path()}")
    except LossError:
        print("library    not installed; models run through their function bodies")
    known = {op.name for spec in CATALOGUE for op in spec.ops}
    bodies = {made.name: len(made.node) for made in model.functions if made.domain == DOMAIN}
    nodes = [node for node in _nodes(model.graph) if node.domain == DOMAIN]
    print(f"losses     {len(nodes) or f'none: no node of the domain {DOMAIN}'}")
    for node in nodes:
        settings = (f"{made.name}={_shown(made)}" for made in node.attribute)
        size = bodies.get(node.op_type)
        print(f'\n{DOMAIN}::{node.op_type} "{node.name}"')
        print(f"  inputs   {', '.join(name or '(none)' for name in node.input)}")
        print(f"  outputs  {', '.join(name or '(none)' for name in node.output)}")
        print(f"  settings {', '.join(settings)}")
        print(f"  body     {f'present, {size} nodes' if size else 'absent: needs the library'}")
        if node.op_type not in known:
            print(f"  kernel   none: onnxloss {__version__} does not know this operator")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _shown(attribute: onnx.AttributeProto) -> str:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, float):
        return str(np.float32(value))
    return value.decode() if isinstance(value, bytes) else str(value)


def _config(options: argparse.Namespace) -> LossConfig:
    """The loss that the options name."""
    family = options.api.partition(".")[0]
    if family not in _FROM:
        allowed = " or ".join(name if name[0].isupper() else f"{name}..." for name in _FROM)
        raise expected("onnxloss", "--api", options.api, f"a full name: {allowed}")
    settings = _given(options, _DIRECT_SETTINGS)
    if hasattr(options, "weight_file"):
        settings["weight"] = _load_weights(options.weight_file)
    for name, value in getattr(options, "set", ()):
        if name in settings:
            raise expected("onnxloss", "--set", f"{name} once more", "each setting once")
        settings[name] = value
    return _FROM[family](options.api, **settings)


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return _given(options, ("label_dtype", "gradient", "inline"))


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The options that the command line has: defaults stay with the API."""
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _load_weights(path: Path) -> np.ndarray:
    try:
        weights = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise expected("onnxloss", "--weight-file", str(path), "a file of numpy.save") from error
    if not isinstance(weights, np.ndarray):
        raise expected("onnxloss", "--weight-file", str(path), "one array, as numpy.save writes it")
    return weights


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # each of the formats that a name may stand for has its own
        raise expected("onnxloss", "model", str(path), "an ONNX model") from error
    # A file that is empty, or a message of another kind, can be read as a model without anything.
    if not model.ir_version or not model.HasField("graph"):
        raise expected("onnxloss", "model", str(path), "an ONNX model")
    return model


def _save(model: onnx.ModelProto, options: argparse.Namespace) -> None:
    """Writes beside the output and renames: nobody ever sees half a file."""
    path: Path = options.output
    if path.is_dir():
        raise expected("onnxloss", "--output", str(path), "a file, not a directory")
    if os.path.lexists(path) and not options.force:
        raise LossError(f"onnxloss: --output is {path}, which exists; give --force to replace it.")
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise LossError(
            f"onnxloss: the model cannot be written to one file: {error}; a protobuf message "
            "holds less than 2 GB."
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise LossError(
            f"onnxloss: --output is {path}, which cannot be written: {error.strerror}."
        ) from error
    print(
        f"{path}: {', '.join(_ports(model.graph.input))} -> {', '.join(_ports(model.graph.output))}"
    )


def _ports(values: Sequence[onnx.ValueInfoProto], most: int = 8) -> list[str]:
    names = [value.name for value in values[:most]]
    return names + [f"{len(values) - most} more"] * (len(values) > most)


def _print_error(error: Exception) -> None:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    print(f"onnxloss: error: {one_line(text).removeprefix('onnxloss: ')}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"onnxloss: warning: {one_line(str(message))}", file=sys.stderr)


_COMMANDS = {"export": _export, "append": _append, "train-step": _train_step, "info": _info}
