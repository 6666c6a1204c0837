# SPDX-License-Identifier: MIT
"""`onnxloss check`: what the losses of a model are, how they run, whether body and kernel agree."""

from __future__ import annotations

import argparse
import json
import textwrap

from . import __version__
from .checking import AGREE, DISAGREE, Checked, check
from .cli_files import load
from .errors import LossError
from .node_trials import unknown_of
from .onnxscript_defs import DOMAIN


def run(options: argparse.Namespace) -> None:
    """Prints them.

    Raises:
        LossError: Body and kernel of a loss disagree.
    """
    model = load(options.model)
    losses, unknown = check(model), unknown_of(model)
    if options.json:
        found = {"losses": [loss.as_json() for loss in losses], "unknown": unknown}
        print(json.dumps({"model": str(options.model), **found}, indent=2))
    else:
        for loss in losses:
            print(_shown(loss))
        for name in unknown:
            print(f"{DOMAIN}::{name}: onnxloss {__version__} does not know this operator")
        print(_summed_up(losses))
    wrong = [loss for loss in losses if loss.verdict == DISAGREE]
    if wrong:
        names = ", ".join(f'"{loss.name}"' for loss in wrong)
        raise LossError(f"check: body and kernel disagree for {names}.")


def _shown(loss: Checked) -> str:
    settings = loss.settings
    changed = ", ".join(f"{name}={settings[name]}" for name in loss.changed)
    rest = len(settings) - len(loss.changed)
    lines = {
        "computes": loss.summary,
        "formula": loss.formula,
        "settings": f"{changed or 'none'}; {rest} more as by default",
        "inputs": ", ".join(
            port if port == name else f"{port}: {name}" for port, name in loss.inputs.items()
        ),
        "outputs": ", ".join(loss.outputs),
        "runs": "fused, by the library's kernel" if loss.fused else _unfused(loss),
        "body": f"{loss.body_nodes} nodes" if loss.body_nodes else "none: it needs the library",
        "compared": _verdict(loss),
    }
    shown = [f'{loss.op_type} "{loss.name}"']
    for title, text in lines.items():
        first, *others = text.splitlines()
        shown.append(f"  {title:<9} {first}")
        shown.extend(textwrap.indent(other, " " * 12) for other in others)
    return "\n".join(shown) + "\n"


def _unfused(loss: Checked) -> str:
    way = "through its body" if loss.body_nodes else "not at all"
    return f"{way}: {loss.reason}"


def _verdict(loss: Checked) -> str:
    if loss.difference is None:
        return f"{loss.verdict}: {loss.details}"
    return (
        f"body and kernel {loss.verdict} on random data: they differ by "
        f"{loss.difference:.2g} of what rounding explains ({loss.details})"
    )


def _summed_up(losses: list[Checked]) -> str:
    if not losses:
        return f"no loss: no node of the domain {DOMAIN}; for other losses there is `onnxloss fuse`"
    fused = sum(loss.fused for loss in losses)
    agreeing = sum(loss.verdict == AGREE for loss in losses)
    noun = "loss" if len(losses) == 1 else "losses"
    return f"{len(losses)} {noun}: {fused} fused, {agreeing} with body and kernel that agree"
