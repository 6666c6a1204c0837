# SPDX-License-Identifier: MIT
"""The command line: `onnxloss export | append | train-step | info`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from . import __version__
from .config import LossConfig
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES
from .errors import LossError, expected
from .export import append_to, export
from .from_torch import from_torch
from .library import library_path
from .onnxscript_defs import CATALOGUE, DOMAIN
from .training import training_step
from .training.optimizers import OPTIMIZERS

REFUSED, USAGE = 1, 2

_FROM: dict[str, Callable[..., LossConfig]] = {"torch": from_torch}
"""The exporter of each framework, by the first name of its APIs."""

_DIRECT_SETTINGS = ("weight", "ignore_index", "reduction", "label_smoothing", "target")
_HYPERPARAMETERS = ("momentum", "weight_decay", "betas", "eps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 1 if the command was refused or failed, with one line on stderr that says why. A
        command line that cannot be read ends the process with 2, as is usual.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            options.run(options)
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
        **_given(options, ("logits", "labels", "loss", "dloss", "dlogits")),
        **_common(options),
    )
    _save(model, options)


def _train_step(options: argparse.Namespace) -> None:
    model = training_step(
        _load(options.model),
        _config(options),
        optimizer=options.optimizer,
        **_given(options, ("logits", "labels", "label_dtype", "parameters", *_HYPERPARAMETERS)),
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
    framework = options.api.partition(".")[0]
    if framework not in _FROM:
        allowed = " or ".join(f"{name}..." for name in _FROM)
        raise expected("onnxloss", "--api", options.api, f"a full name: {allowed}")
    settings = _given(options, _DIRECT_SETTINGS)
    if hasattr(options, "weight_file"):
        settings["weight"] = _load_weights(options.weight_file)
    for name, value in getattr(options, "set", ()):
        if name in settings:
            raise expected("onnxloss", "--set", f"{name} once more", "each setting once")
        settings[name] = value
    return _FROM[framework](options.api, **settings)


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
    except (DecodeError, onnx.parser.ParseError, ValueError) as error:
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
    print(f"onnxloss: error: {_one_line(text)}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"onnxloss: warning: {_one_line(str(message))}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split()).removeprefix("onnxloss: ")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with the exit code for usage."""
        print(f"onnxloss: error: {_one_line(message)}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="onnxloss",
        description="Writes losses of the softmax-cross-entropy family as ONNX.",
        epilog="example:\n  onnxloss export --api torch.nn.CrossEntropyLoss --logits N,10 -o loss.onnx",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"onnxloss {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _command(
        commands,
        "export",
        _export,
        "the loss as a model of its own",
        "onnxloss export --api torch.nn.CrossEntropyLoss --label-smoothing 0.1 "
        "--weight 1,2,0.5 --logits N,3 --gradient -o loss.onnx",
    )
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    shape = {"type": _shape, "metavar": "SHAPE", "default": argparse.SUPPRESS}
    group.add_argument(
        "--logits",
        type=_shape,
        metavar="SHAPE",
        required=True,
        help='shape of the logits: numbers, names of dynamic dimensions; "N,10"',
    )
    group.add_argument("--labels", **shape, help="shape of the labels; by default from the logits")
    group.add_argument(
        "--sample-weights", **shape, help="adds the input sample_weights, for losses that take it"
    )
    group.add_argument(
        "--dtype", default="float32", help=f"dtype of the logits: {_or(FLOAT_DTYPES)} (float32)"
    )
    group.add_argument(
        "--outputs",
        type=lambda text: tuple(text.split(",")),
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help='the outputs besides dlogits: "loss" or "loss,lse"',
    )
    _add_common_options(group)
    _add_output_options(group)

    command = _command(
        commands,
        "append",
        _append,
        "the loss behind a forward model",
        "onnxloss append classifier.onnx --api torch.nn.CrossEntropyLoss --logits scores "
        "-o classifier_loss.onnx",
    )
    _add_model(command)
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    _add_names(group, ("logits", "labels", "loss", "dloss", "dlogits"))
    _add_common_options(group)
    _add_output_options(group)

    command = _command(
        commands,
        "train-step",
        _train_step,
        "forward, loss, gradient and update in one model",
        "onnxloss train-step classifier.onnx --api torch.nn.CrossEntropyLoss --optimizer adamw "
        "--weight-decay 0.01 -o step.onnx",
    )
    _add_model(command)
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    _add_names(group, ("logits", "labels"))
    _add_label_dtype(group)
    _add_output_options(group)
    group = command.add_argument_group("the optimizer")
    group.add_argument("--optimizer", default="sgd", help=f"{_or(OPTIMIZERS)} (sgd)")
    group.add_argument(
        "--parameters",
        type=lambda text: text.split(","),
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help="the initializers to train; by default every float one",
    )
    for name in _HYPERPARAMETERS:
        pair = name == "betas"
        group.add_argument(
            _option(name),
            type=_numbers if pair else float,
            metavar="NUMBER,NUMBER" if pair else "NUMBER",
            default=argparse.SUPPRESS,
            help=f"of {_or(key for key, kind in OPTIMIZERS.items() if hasattr(kind, name))}",
        )

    command = _command(
        commands,
        "info",
        _info,
        "the losses of a model, and how they will run",
        "onnxloss info loss.onnx",
    )
    _add_model(command)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], what: str, example: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"Writes {what}." if name != "info" else f"Prints {what}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="an ONNX file")


def _add_loss_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the loss, with the names that its framework has for them")
    unset = argparse.SUPPRESS
    group.add_argument("--api", required=True, help="full name, as torch.nn.CrossEntropyLoss")
    group.add_argument("--target", default=unset, help="indices or probabilities (indices)")
    group.add_argument("--reduction", default=unset, help="none, mean or sum")
    group.add_argument("--label-smoothing", type=float, metavar="NUMBER", default=unset)
    group.add_argument("--ignore-index", type=int, metavar="LABEL", default=unset)
    weights = group.add_mutually_exclusive_group()
    weights.add_argument(
        "--weight", type=_numbers, metavar="NUMBERS", default=unset, help="one per class: 1,2,0.5"
    )
    weights.add_argument(
        "--weight-file", type=Path, metavar="NPY", default=unset, help="the same from numpy.save"
    )
    group.add_argument(
        "--set",
        type=_setting,
        action="append",
        metavar="NAME=VALUE",
        default=unset,
        help="any other setting of the API, as a Python value",
    )


def _add_names(group: Any, names: Sequence[str]) -> None:
    for name in names:
        text = "name of the output that holds the logits; by default the only one"
        if name != "logits":
            text = f"name of the {'input' if name in ('labels', 'dloss') else 'output'} ({name})"
        group.add_argument(_option(name), metavar="NAME", default=argparse.SUPPRESS, help=text)


def _add_label_dtype(group: Any) -> None:
    dtypes = f"{_or(LABEL_DTYPES)}; for probabilities as the logits"
    group.add_argument("--label-dtype", metavar="DTYPE", default=argparse.SUPPRESS, help=dtypes)


def _add_common_options(group: Any) -> None:
    _add_label_dtype(group)
    group.add_argument(
        "--gradient", action="store_true", help="adds the input dloss and the output dlogits"
    )
    group.add_argument(
        "--inline", action="store_true", help="writes standard nodes only, no custom domain"
    )


def _add_output_options(group: Any) -> None:
    group.add_argument("-o", "--output", type=Path, metavar="FILE", required=True)
    group.add_argument("--force", action="store_true", help="replaces the output if it exists")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _or(names: Any) -> str:
    return " or ".join(names)


def _shape(text: str) -> tuple[int | str, ...]:
    sizes = tuple(size.strip() for size in text.split(","))
    if not all(sizes):
        raise argparse.ArgumentTypeError(f'"{text}" is not a shape like N,10')
    return tuple(int(size) if size.lstrip("-").isdigit() else size for size in sizes)


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not numbers like 1,2,0.5') from None


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f'"{text}" is not NAME=VALUE')
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
