# SPDX-License-Identifier: MIT
"""Times the loss, and loss with gradient, against a copy of the logits and against other runtimes.

Every implementation is checked against the float64 reference of the tests before it is timed. All
are timed in turn in one process, each after a rest and 20 ms of runs that are not timed, for 10 ms
or one run; the tables have the medians of many turns, and of the turns' ratios. A ratio of 1 is the
time that one thread of numpy takes to copy the logits: it reads and writes each of them once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from bench.bench_kernels import kernel_sections
from bench.implementations import IMPLEMENTATIONS, Problem
from bench.timing import (
    BOTH,
    LOSS,
    Run,
    Times,
    machine,
    normal_logits,
    take_turns,
    threads_text,
)
from tests.cases import DTYPES as ALL_DTYPES
from tests.reference import softmax_cross_entropy_loss

SHAPES = (
    "1024x32000",  # 1024 tokens of a Llama 2 vocabulary
    "32x32000",  # a small batch
    "1024x50257",  # of GPT-2: rows of any alignment, and the end of each in part of a vector
    "256x128256",  # 256 tokens of a Llama 3 vocabulary: rows beyond the first-level caches
    "8192x1000",  # a batch of ImageNet
    "16384x100",  # short rows: CIFAR-100
    "65536x10",  # many rows of few classes: CIFAR-10, digits
    "4x21x512x512",  # segmentation: the class axis is not the last
    "4x32000x256",  # 1024 tokens again, with the class axis where PyTorch has it
)
DTYPES = tuple(name for name in ALL_DTYPES if name != "float64")
COPY = ("copy", LOSS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables; with `--markdown` also writes them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES, metavar="NxC")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument(
        "--kernels", action="store_true", help="dtypes, options and instruction sets too"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--title", default="Benchmarks", help="that of the file")
    options = parser.parse_args(arguments)
    sections = [machine()]
    print(sections[0], flush=True)
    for threads in options.threads:
        for text in options.shapes:
            shape = tuple(int(size) for size in text.split("x"))
            problem = make_problem(shape, options.dtype, threads)
            sections.append(table(problem, measure(problem, options.repeats)))
            print(f"\n{sections[-1]}", flush=True)
    if options.kernels:
        for section in kernel_sections(max(options.threads), options.repeats):
            sections.append(section)
            print(f"\n{section}", flush=True)
    if options.markdown:
        given = sys.argv[1:] if arguments is None else arguments
        command = f"python -m bench.bench_losses {shlex.join(given)}"
        doc = __doc__.partition("\n\n")[2]
        text = _HEAD.format(title=options.title, command=command, doc=doc)
        options.markdown.write_text("\n\n".join([text, *sections]) + "\n")


_HEAD = """\
# {title}

Written by `{command}`.

{doc}
The loss is softmax cross entropy with integer labels and the mean over all positions. "Function
body" is the same file without the library registered. ONNX Runtime has no gradient of its own
operator. GB/s counts the logits read once, and with the gradient written once."""


def make_problem(shape: tuple[int, ...], dtype: str, threads: int) -> Problem:
    """Normal logits, labels drawn evenly, and what the reference says of them."""
    n, classes = shape[:2]
    logits = normal_logits(shape, dtype)
    label_shape = (n, *shape[2:])
    labels = np.random.default_rng(n).integers(0, classes, label_shape)
    positions = prod(label_shape)
    loss, dlogits = 0.0, np.empty(shape, np.float32)
    rows = max(1, 2**22 // prod(shape[1:]))  # the reference widens to float64: some at a time
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        part, dlogits[block] = softmax_cross_entropy_loss(
            logits[block], labels[block], 1 / positions, reduction="sum"
        )
        loss += float(part) / positions
    return Problem(shape, dtype, threads, logits, labels, loss, dlogits)


def measure(problem: Problem, repeats: int) -> Times[tuple[str, str]]:
    """The times of a copy, and of what each implementation can compute."""
    copy = np.empty_like(problem.logits)
    runs: dict[tuple[str, str], Run] = {}
    for name, make in IMPLEMENTATIONS.items():
        for what in (LOSS, BOTH):
            run = make(problem, what)
            if run is not None:
                check(problem, f"{name}, {what}", run())
                runs[name, what] = run
    return take_turns({COPY: lambda: np.copyto(copy, problem.logits), **runs}, repeats)


def check(problem: Problem, name: str, results: tuple[np.ndarray, ...]) -> None:
    """Ends the benchmark if a result is wrong: a wrong number is no number.

    An error of 2^-16 of the largest value is allowed in float32, which an ordinary sum of 128 256
    terms has, and two units in the last place of the 16-bit dtypes.
    """
    allowed = {"float32": 2**-16, "float16": 2**-9, "bfloat16": 2**-6}[problem.dtype]
    truths = (np.float32(problem.loss), problem.dlogits)
    for what, result, truth in zip(("loss", "dlogits"), results, truths, strict=False):
        error = np.max(np.abs(result.astype(np.float32) - truth)) / np.max(np.abs(truth))
        if not error <= allowed:
            sys.exit(f"{name}: error of {what} is {error:.1e}; expected at most {allowed:.1e}.")


def table(problem: Problem, times: Times[tuple[str, str]]) -> str:
    """The times of one problem as Markdown."""
    lines = [
        f"## {'x'.join(map(str, problem.shape))} {problem.dtype}, {threads_text(problem.threads)}",
        "",
        f"One copy of the logits by numpy on one thread: {times.seconds(COPY) * 1e3:.2f} ms.",
        "",
        "| | loss, ms | ratio to copy | GB/s | loss + gradient, ms | ratio to copy | GB/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in IMPLEMENTATIONS:
        cells = []
        for key in ((name, LOSS), (name, BOTH)):
            if key in times.turns:
                seconds = times.seconds(key)
                rate = problem.bytes[key[1]] / seconds / 1e9
                cells += [f"{seconds * 1e3:.2f}", f"{times.ratio(key, COPY):.2f}", f"{rate:.1f}"]
            else:
                cells += ["-", "-", "-"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
