# SPDX-License-Identifier: MIT
"""The command `onnxloss`: `export | append | train-step | info | fuse | check | bench | view`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from . import __version__, cli_bench, cli_check, cli_fuse
from .cli_files import load, save
from .cli_options import HYPERPARAMETERS, STEP_SETTINGS, make_parser
from .cli_values import one_line
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
from .view import view
from .writer import nodes_of

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
    options = make_command_line().parse_args(arguments)
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


def make_command_line() -> argparse.ArgumentParser:
    """The parser of the command line."""
    return make_parser(_COMMANDS)


def _export(options: argparse.Namespace) -> None:
    config = _config(options)
    model = export(
        config,
        logits=options.logits,
        dtype=options.dtype,
        **_given(options, ("labels", "sample_weights", "outputs")),
        **_common(options),
    )
    save(model, options)


def _append(options: argparse.Namespace) -> None:
    model = append_to(
        load(options.model),
        _config(options),
        **_given(options, ("logits", "labels", "sample_weights", "loss", "dloss", "dlogits")),
        **_common(options),
    )
    save(model, options)


def _train_step(options: argparse.Namespace) -> None:
    model = training_step(
        load(options.model),
        _config(options),
        optimizer=options.optimizer,
        **_given(options, ("logits", "labels", "label_dtype", "parameters")),
        **_given(options, (*HYPERPARAMETERS, *STEP_SETTINGS)),
    )
    save(model, options)


def _info(options: argparse.Namespace) -> None:
    model = load(options.model)
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
    nodes = [node for node in nodes_of(model.graph) if node.domain == DOMAIN]
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


def _view(options: argparse.Namespace) -> None:
    load(options.model)
    view(options.model, host=options.host, port=options.port, browse=options.browse)


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


def _print_error(error: Exception) -> None:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    print(f"onnxloss: error: {one_line(text).removeprefix('onnxloss: ')}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"onnxloss: warning: {one_line(str(message))}", file=sys.stderr)


_COMMANDS = {
    "export": _export,
    "append": _append,
    "train-step": _train_step,
    "info": _info,
    "fuse": cli_fuse.run,
    "check": cli_check.run,
    "bench": cli_bench.run,
    "view": _view,
}
