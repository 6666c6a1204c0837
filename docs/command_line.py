# SPDX-License-Identifier: MIT
"""Writes docs/command_line.md from the parser of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxloss.cli import make_command_line

TARGET = Path(__file__).parent / "command_line.md"

_INTRODUCTION = """\
# Command line

<!-- Written by docs/generate.py from the parser; do not edit. -->

Installing onnxloss installs the command `onnxloss`; `python -m onnxloss` is the same. The exit code
is 0, 1 if the command was refused or failed (one line on stderr says why), 2 if it could not be
read. An output that exists is replaced with `--force` only.
"""


def command_line() -> str:
    """The page, as Markdown."""
    sections = [_INTRODUCTION]
    for name, command in _commands(make_command_line()).items():
        sections += [f"## onnxloss {name}", command.description or ""]
        example = (command.epilog or "").partition("\n")[2].strip()
        sections += [f"```console\n$ {example}\n```", _table(command)]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (added,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(added.choices)


def _table(command: argparse.ArgumentParser) -> str:
    rows = [
        (
            _names(action),
            (action.help or "") + " (required)" * (action.required and _is_option(action)),
        )
        for action in command._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    lines = [("argument", "meaning"), ("---", "---"), *rows]
    return "\n".join(
        f"| {name} | {meaning.replace('|', '&#124;').strip()} |" for name, meaning in lines
    )


def _is_option(action: argparse.Action) -> bool:
    return bool(action.option_strings)


def _names(action: argparse.Action) -> str:
    if not _is_option(action):
        return f"`{action.dest.upper()}`"
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return f"`{', '.join(action.option_strings)}{value}`"
