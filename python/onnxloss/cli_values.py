# SPDX-License-Identifier: MIT
"""What stands behind an option of the command line, read and written."""

from __future__ import annotations

import argparse
import ast
import re
from typing import Any


def shape(text: str) -> tuple[int | str, ...]:
    """A shape: numbers and names."""
    sizes = tuple(size.strip() for size in text.split(","))
    if not all(re.fullmatch(r"-?\d+|[^\W\d][\w.-]*", size) for size in sizes):
        raise argparse.ArgumentTypeError(f'"{text}" is not a shape like N,10')
    return tuple(int(size) if size.lstrip("-").isdigit() else size for size in sizes)


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not numbers like 1,2,0.5') from None


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return text.split(",")


def setting(text: str) -> tuple[str, Any]:
    """A name and a Python value, or else its text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f'"{text}" is not NAME=VALUE')
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def size(text: str) -> tuple[str, int]:
    """The dimension's name, or nothing for all others, and its size."""
    name, _, number = text.rpartition("=")
    if not (number.isdigit() and int(number)):
        raise argparse.ArgumentTypeError(f'"{text}" is not a size like N=4096 or 4096')
    return name, int(number)


def count(text: str) -> int:
    """A number of at least 1."""
    if not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of at least 1')
    return int(text)


def port(text: str) -> int:
    """A port of TCP."""
    if not (text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f'"{text}" is not a port in [0, {2**16 - 1}]')
    return int(text)


def one_line(text: str) -> str:
    """The text without line breaks, for a message."""
    return " ".join(text.split())
