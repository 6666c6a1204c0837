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

    command = _command(
        added,
        "export",
        commands["export"],
        "the loss as a model of its own",
        "onnxloss export --api torch.nn.CrossEntropyLoss --label-smoothing 0.1 "
        "--weight 1,2,0.5 --logits N,3 --gradient -o loss.onnx",
    )
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    unset = argparse.SUPPRESS
    group.add_argument(
        "--logits",
        type=cli_values.shape,
        metavar="SHAPE",
        required=True,
        help='shape of the logits: numbers, names of dynamic dimensions; "N,10"',
    )
    group.add_argument(
        "--labels",
        type=cli_values.shape,
        metavar="SHAPE",
        default=unset,
        help="shape of the labels; by default from the logits",
    )
    group.add_argument(
        "--sample-weights",
        type=cli_values.shape,
        metavar="SHAPE",
        default=unset,
        help="adds the input sample_weights, for losses that take it",
    )
    group.add_argument(
        "--dtype", default="float32", help=f"dtype of the logits: {_or(FLOAT_DTYPES)} (float32)"
    )
    group.add_argument(
        "--outputs",
        type=lambda text: tuple(text.split(",")),
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help="the outputs besides dlogits: loss, or more as loss,lse,dlabels",
    )
    _add_common_options(group)
    _add_output_options(group)

    command = _command(
        added,
        "append",
        commands["append"],
        "the loss behind a forward model",
        "onnxloss append classifier.onnx --api torch.nn.CrossEntropyLoss --logits scores "
        "-o classifier_loss.onnx",
    )
    _add_model(command)
    _add_loss_options(command)
    group = command.add_argument_group("the model")
    _add_names(group, ("logits", "labels", "sample_weights", "loss", "dloss", "dlogits"))
    _add_common_options(group)
    _add_output_options(group)

    command = _command(
        added,
        "train-step",
        commands["train-step"],
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
    group.add_argument(
        "--frozen",
        type=lambda text: text.split(","),
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help="initializers to leave as they are",
    )
    for name in HYPERPARAMETERS:
        kinds = [key for key, kind in OPTIMIZERS.items() if hasattr(kind, name)]
        form: dict[str, Any] = {"type": float, "metavar": "NUMBER"}
        if name in ("nesterov", "amsgrad"):
            form = {"action": "store_true"}
        elif name == "betas":
            form = {"type": cli_values.numbers, "metavar": "NUMBER,NUMBER"}
        group.add_argument(
            _option(name), default=argparse.SUPPRESS, help=f"of {_or(kinds)}", **form
        )
    for name, kind, text in (
        ("max_norm", float, "clip the gradients to this global norm"),
        ("accumulation_steps", int, "how many steps make one update (1)"),
        ("loss_scale", float, "the first loss scale, for gradients in 16 bits"),
        ("growth_interval", int, "updates without an overflow that double the loss scale (2000)"),
    ):
        group.add_argument(
            _option(name), type=kind, metavar="NUMBER", default=argparse.SUPPRESS, help=text
        )

    command = _command(
        added,
        "info",
        commands["info"],
        "the losses of a model, and how they will run",
        "onnxloss info loss.onnx",
    )
    _add_model(command)
    _add_model_commands(added, commands)

    command = _command(
        added,
        "view",
        commands["view"],
        "a model in a browser, with Netron",
        "onnxloss view loss.onnx",
    )
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
    return parser


def _add_model_commands(added: Any, commands: Mapping[str, Command]) -> None:
    """The commands that need nothing but a model."""
    command = _command(
        added,
        "fuse",
        commands["fuse"],
        "the model with this project's operators for the losses that it has",
        "onnxloss fuse classifier_with_loss.onnx -o fused.onnx",
    )
    _add_model(command)
    command.add_argument(
        "--inputs",
        type=Path,
        metavar="NPZ",
        help="arrays for the model's inputs, from numpy.savez: the whole model is compared on "
        "them, instead of what changed on random data",
    )
    _add_output_options(command)

    command = _command(
        added,
        "check",
        commands["check"],
        "what the losses of a model are, how they run, and whether body and kernel agree",
        "onnxloss check loss.onnx",
    )
    _add_model(command)
    _add_json(command)

    command = _command(
        added,
        "bench",
        commands["bench"],
        "the times of body and kernel of each loss of a model",
        "onnxloss bench loss.onnx --size N=4096 --threads 2",
    )
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


def _command(
    added: Any, name: str, run: Command, what: str, example: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = added.add_parser(
        name,
        help=what,
        description=f"{_VERBS.get(name, 'Writes')} {what}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="an ONNX file")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="prints the same as JSON")


def _add_loss_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the loss, with the settings of its API")
    unset = argparse.SUPPRESS
    group.add_argument(
        "--api", required=True, help="full name of the loss, as torch.nn.CrossEntropyLoss"
    )
    group.add_argument("--target", default=unset, help="indices or probabilities")
    group.add_argument("--reduction", default=unset, help="as the API names it")
    group.add_argument(
        "--label-smoothing", type=float, metavar="NUMBER", default=unset, help="a factor in [0, 1]"
    )
    group.add_argument(
        "--ignore-index", type=int, metavar="LABEL", default=unset, help="a label without a loss"
    )
    weights = group.add_mutually_exclusive_group()
    weights.add_argument(
        "--weight",
        type=cli_values.numbers,
        metavar="NUMBERS",
        default=unset,
        help="one per class: 1,2,0.5",
    )
    weights.add_argument(
        "--weight-file", type=Path, metavar="NPY", default=unset, help="the same from numpy.save"
    )
    group.add_argument(
        "--z-loss", type=float, metavar="NUMBER", default=unset, help="factor of lse^2 in the loss"
    )
    group.add_argument(
        "--logit-softcap",
        type=float,
        metavar="NUMBER",
        default=unset,
        help="logits x become cap * tanh(x / cap)",
    )
    group.add_argument(
        "--set",
        type=cli_values.setting,
        action="append",
        metavar="NAME=VALUE",
        default=unset,
        help="any other setting of the API, as a Python value",
    )


def _add_names(group: Any, names: Sequence[str]) -> None:
    for name in names:
        text = "name of the output that holds the logits; by default the only one"
        if name == "sample_weights":
            text = "name of an input to add, for losses that take it"
        elif name != "logits":
            text = f"name of the {'output' if name in ('loss', 'dlogits') else 'input'} ({name})"
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
    group.add_argument(
        "-o", "--output", type=Path, metavar="FILE", required=True, help="the file to write"
    )
    group.add_argument("--force", action="store_true", help="replaces the output if it exists")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _or(names: Any) -> str:
    return " or ".join(names)
