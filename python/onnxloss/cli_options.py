# SPDX-License-Identifier: MIT
"""The options of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, cli_values
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES
from .training.optimizers import OPTIMIZERS

USAGE = 2
"""The exit code for a command line that cannot be read."""

HYPERPARAMETERS = ("momentum", "dampening", "nesterov", "weight_decay", "betas", "eps", "amsgrad")
STEP_SETTINGS = ("frozen", "max_norm", "accumulation_steps", "loss_scale", "growth_interval")

_UNSET = argparse.SUPPRESS
"""The default of options whose defaults stay with the API."""

_VERBS = {"info": "Prints", "check": "Prints", "bench": "Prints", "view": "Shows"}

Command = Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with the exit code for usage."""
        print(
            f"onnxloss: error: {cli_values.one_line(message)}; see {self.prog} --help",
            file=sys.stderr,
        )
        raise SystemExit(USAGE)


def make_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser; the options of a command have its function as `run`."""
    parser = _Parser(
        prog="onnxloss",
        description="Writes losses of the softmax-cross-entropy family as ONNX.",
        epilog="example:\n  onnxloss export --api torch.nn.CrossEntropyLoss --logits N,9 -o x.onnx",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"onnxloss {__version__}")
    added = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (what, example, add_options) in _COMMANDS.items():
        command: argparse.ArgumentParser = added.add_parser(
            name,
            help=what,
            description=f"{_VERBS.get(name, 'Writes')} {what}.",
            epilog=f"example:\n  onnxloss {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=commands[name])
        add_options(command)
    return parser


def _add_export(command: argparse.ArgumentParser) -> None:
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    group.add_argument(
        "--logits",
        type=cli_values.shape,
        metavar="SHAPE",
        required=True,
        help='shape of the logits: numbers, names of dynamic dimensions; "N,10"',
    )
    for name, text in (
        ("--labels", "shape of the labels; by default from the logits"),
        ("--sample-weights", "adds the input sample_weights, for losses that take it"),
    ):
        group.add_argument(name, type=cli_values.shape, metavar="SHAPE", default=_UNSET, help=text)
    group.add_argument(
        "--dtype", default="float32", help=f"dtype of the logits: {_or(FLOAT_DTYPES)} (float32)"
    )
    _add_list(group, "--outputs", "the outputs besides dlogits: loss, or more as loss,lse,dlabels")
    _add_common_options(group)
    _add_output_options(group)


def _add_append(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    _add_names(group, ("logits", "labels", "sample_weights", "loss", "dloss", "dlogits"))
    _add_common_options(group)
    _add_output_options(group)


def _add_train_step(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    _add_names(group, ("logits", "labels"))
    _add_label_dtype(group)
    _add_output_options(group)
    group = command.add_argument_group("the optimizer")
    group.add_argument("--optimizer", default="sgd", help=f"{_or(OPTIMIZERS)} (sgd)")
    _add_list(group, "--parameters", "the initializers to train; by default every float one")
    _add_list(group, "--frozen", "initializers to leave as they are")
    for name in HYPERPARAMETERS:
        kinds = [key for key, kind in OPTIMIZERS.items() if hasattr(kind, name)]
        form: dict[str, Any] = {"type": float, "metavar": "NUMBER"}
        if name in ("nesterov", "amsgrad"):
            form = {"action": "store_true"}
        elif name == "betas":
            form = {"type": cli_values.numbers, "metavar": "NUMBER,NUMBER"}
        group.add_argument(_option(name), default=_UNSET, help=f"of {_or(kinds)}", **form)
    for name, kind, text in (
        ("max_norm", float, "clip the gradients to this global norm"),
        ("accumulation_steps", int, "how many steps make one update (1)"),
        ("loss_scale", float, "the first loss scale, for gradients in 16 bits"),
        ("growth_interval", int, "updates without an overflow that double the loss scale (2000)"),
    ):
        group.add_argument(_option(name), type=kind, metavar="NUMBER", default=_UNSET, help=text)


def _add_fuse(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    command.add_argument(
        "--inputs",
        type=Path,
        metavar="NPZ",
        help="arrays for the model's inputs, from numpy.savez: the whole model is compared on "
        "them, instead of what changed on random data",
    )
    _add_output_options(command)


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    _add_json(command)


def _add_bench(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    command.add_argument(
        "--size",
        type=cli_values.size,
        action="append",
        metavar="NAME=NUMBER",
        help="size of a dynamic dimension, or without a name of all others (1024)",
    )
    command.add_argument(
        "--threads", type=cli_values.count, metavar="NUMBER", default=1, help="(1)"
    )
    _add_json(command)


def _add_view(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    command.add_argument("--host", default="localhost", help="the address to serve at (localhost)")
    command.add_argument(
        "--port",
        type=cli_values.port,
        default=0,
        help="the port to serve at; by default any free one",
    )
    command.add_argument(
        "--no-browser", dest="browse", action="store_false", help="only serves; opens no browser"
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="an ONNX file")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="prints the same as JSON")


def _add_loss_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the loss, with the settings of its API")
    group.add_argument(
        "--api", required=True, help="full name of the loss, as torch.nn.CrossEntropyLoss"
    )
    weights = "one per class: 1,2,0.5"
    either = group.add_mutually_exclusive_group()
    for to, name, kind, metavar, text in (
        (group, "--target", str, None, "indices or probabilities"),
        (group, "--reduction", str, None, "as the API names it"),
        (group, "--label-smoothing", float, "NUMBER", "a factor in [0, 1]"),
        (group, "--ignore-index", int, "LABEL", "a label without a loss"),
        (either, "--weight", cli_values.numbers, "NUMBERS", weights),
        (either, "--weight-file", Path, "NPY", "the same from numpy.save"),
        (group, "--z-loss", float, "NUMBER", "factor of lse^2 in the loss"),
        (group, "--logit-softcap", float, "NUMBER", "logits x become cap * tanh(x / cap)"),
    ):
        to.add_argument(name, type=kind, metavar=metavar, default=_UNSET, help=text)
    group.add_argument(
        "--set",
        type=cli_values.setting,
        action="append",
        metavar="NAME=VALUE",
        default=_UNSET,
        help="any other setting of the API, as a Python value",
    )


def _add_list(group: Any, name: str, text: str) -> None:
    group.add_argument(name, type=cli_values.names, metavar="NAMES", default=_UNSET, help=text)


def _add_names(group: Any, names: Sequence[str]) -> None:
    for name in names:
        text = "name of the output that holds the logits; by default the only one"
        if name == "sample_weights":
            text = "name of an input to add, for losses that take it"
        elif name != "logits":
            text = f"name of the {'output' if name in ('loss', 'dlogits') else 'input'} ({name})"
        group.add_argument(_option(name), metavar="NAME", default=_UNSET, help=text)


def _add_label_dtype(group: Any) -> None:
    dtypes = f"{_or(LABEL_DTYPES)}; for probabilities as the logits"
    group.add_argument("--label-dtype", metavar="DTYPE", default=_UNSET, help=dtypes)


def _add_common_options(group: Any) -> None:
    _add_label_dtype(group)
    group.add_argument(
        "--gradient", action="store_true", help="adds the input dloss and the output dlogits"
    )
    group.add_argument(
        "--inline", action="store_true", help="writes standard nodes only, no custom domain"
    )


def _add_output_options(group: Any) -> None:
    group.add_argument(
        "-o", "--output", type=Path, metavar="FILE", required=True, help="the file to write"
    )
    group.add_argument("--force", action="store_true", help="replaces the output if it exists")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _or(names: Any) -> str:
    return " or ".join(names)


_COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "export": (
        "the loss as a model of its own",
        "--api torch.nn.CrossEntropyLoss --label-smoothing 0.1 --weight 1,2,0.5 --logits N,3 "
        "--gradient -o loss.onnx",
        _add_export,
    ),
    "append": (
        "the loss behind a forward model",
        "classifier.onnx --api torch.nn.CrossEntropyLoss --logits scores -o classifier_loss.onnx",
        _add_append,
    ),
    "train-step": (
        "forward, loss, gradient and update in one model",
        "classifier.onnx --api torch.nn.CrossEntropyLoss --optimizer adamw --weight-decay 0.01 "
        "-o step.onnx",
        _add_train_step,
    ),
    "info": ("the losses of a model, and how they will run", "loss.onnx", _add_model),
    "fuse": (
        "the model with this project's operators for the losses that it has",
        "classifier_with_loss.onnx -o fused.onnx",
        _add_fuse,
    ),
    "check": (
        "what the losses of a model are, how they run, and whether body and kernel agree",
        "loss.onnx",
        _add_check,
    ),
    "bench": (
        "the times of body and kernel of each loss of a model",
        "loss.onnx --size N=4096 --threads 2",
        _add_bench,
    ),
    "view": ("a model in a browser, with Netron", "loss.onnx", _add_view),
}
"""Of each command what it writes, prints or shows; an example of its arguments; its options."""
