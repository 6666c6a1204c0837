# SPDX-License-Identifier: MIT
"""Times this library's kernels against each other: dtypes, options, instruction sets, sampling.

The gradients of the first rows are checked against the float64 reference before anything is timed.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import onnxloss
from bench.timing import (
    BOTH,
    LOSS,
    Run,
    Times,
    bound_run,
    normal_logits,
    take_turns,
    threads_text,
)
from tests.cases import DTYPES
from tests.reference import soft_label_cross_entropy_loss, softmax_cross_entropy_loss

SHAPE = (1024, 32000)
CHECKED_ROWS = 8
IGNORED = -100
Runs = dict[tuple[str, str], Run]


@dataclass(frozen=True)
class Variant:
    """A configuration of the loss, as it differs from the plain one."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    soft_labels: bool = False
    class_weights: bool = False
    half_ignored: bool = False
    masked: float | None = None
    """What stands in the place of every second class's logits."""


PLAIN = Variant()
VARIANTS = {
    "plain": PLAIN,
    "reduction none": Variant({"reduction": "none"}),
    "reduction sum": Variant({"reduction": "sum"}),
    "z_loss": Variant({"z_loss": 1e-4}),
    "half of the rows ignored": Variant({"ignore_index": IGNORED}, half_ignored=True),
    "half of the classes -inf": Variant(masked=-np.inf),
    "half of the classes -1e9": Variant(masked=-1e9),
    "class weights": Variant(class_weights=True),
    "label smoothing": Variant({"label_smoothing": 0.1}),
    "label smoothing, class weights": Variant({"label_smoothing": 0.1}, class_weights=True),
    "soft labels": Variant(soft_labels=True),
}


def kernel_sections(threads: int, repeats: int) -> Iterator[str]:
    """The tables, each as Markdown."""
    yield _options(threads, repeats)
    for shape in (SHAPE, (8192, 1000), (16384, 100), (65536, 10)):
        yield _dtypes(shape, threads, repeats)
    yield _instruction_sets(threads, repeats)
    for shape in ((8192, 1000), (65536, 10)):
        yield _keras(shape, threads, repeats)
    yield _sampled(threads, repeats)


def _options(threads: int, repeats: int) -> str:
    runs: Runs = {}
    for name, variant in VARIANTS.items():
        runs |= {(name, what): make_run(SHAPE, "float32", variant, what, threads) for what in _BOTH}
    title = f"Options, {_text(SHAPE)} float32, {threads_text(threads)}"
    return _ratios(title, take_turns(runs, repeats))


def _dtypes(shape: tuple[int, int], threads: int, repeats: int) -> str:
    runs: Runs = {}
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        runs |= {(dtype, what): make_run(shape, dtype, PLAIN, what, threads) for what in _BOTH}
    return _ratios(f"Dtypes, {_text(shape)}, {threads_text(threads)}", take_turns(runs, repeats))


def _instruction_sets(threads: int, repeats: int) -> str:
    """The best first; a session's kernels are those chosen when it runs."""
    library = ctypes.CDLL(onnxloss.library_path())
    plain = {what: make_run(SHAPE, "float32", PLAIN, what, threads) for what in _BOTH}
    runs: Runs = {}
    for name in (b"v4", b"v3", b"v2"):
        if library.OnnxLossSetInstructionSet(name) == 0:
            for what, run in plain.items():
                runs[f"x86-64-{name.decode()}", what] = functools.partial(
                    _run_with, library, name, run
                )
    times = take_turns(runs, repeats)
    library.OnnxLossSetInstructionSet(b"auto")
    title = f"Instruction sets, {_text(SHAPE)} float32, {threads_text(threads)}"
    return _ratios(title, times)


def _run_with(library: ctypes.CDLL, name: bytes, run: Run) -> tuple[np.ndarray, ...]:
    library.OnnxLossSetInstructionSet(name)
    return run()


def _keras(shape: tuple[int, int], threads: int, repeats: int) -> str:
    """Keras's losses of logits and, as by default, of probabilities, which are normalized."""
    logits = normal_logits(shape, "float32")
    exponentials = np.exp(logits)
    given = {"logits": logits, "probabilities": exponentials / exponentials.sum(1, keepdims=True)}
    indices = np.random.default_rng(0).integers(0, shape[1], shape[0])
    one_hot = np.eye(shape[1], dtype=np.float32)[indices]
    losses = {
        "Categorical": ("keras.losses.CategoricalCrossentropy", one_hot),
        "Sparse": ("keras.losses.SparseCategoricalCrossentropy", indices),
    }
    runs: Runs = {}
    for (name, (api, labels)), kind in itertools.product(losses.items(), given):
        config = onnxloss.from_tf(api, from_logits=kind == "logits")
        feeds = {"logits": given[kind], "labels": labels, "dloss": np.ones((), np.float32)}
        for what in _BOTH:
            model = onnxloss.export(config, logits=shape, gradient=what == BOTH)
            results = []
            for way, library in (("", True), (", function body", False)):
                outputs = {"loss": np.zeros((), np.float32), "dlogits": np.zeros_like(logits)}
                run = bound_run(model, feeds, outputs, library=library, threads=threads)
                assert run is not None
                results.append(run()[-1])
                runs[f"{name} of {kind}{way}", what] = run
            error = np.max(np.abs(results[0] - results[1])) / np.max(np.abs(results[1]))
            if not error <= 2**-16:
                sys.exit(f"{name} of {kind}: kernel and function body differ by {error:.1e}.")
    title = f"Keras's losses, {_text(shape)} float32, {threads_text(threads)}"
    return _ratios(title, take_turns(runs, repeats))


def _sampled(threads: int, repeats: int) -> str:
    """The loss alone: a gradient has K columns, whatever they hold.

    Of few classes several samples share a line of memory; of a million hardly any do.
    """
    rows, num_samples, numbers = 1024, 8192, (1_000_000, 2_000_000, 100_000)
    ones = np.ones(rows * max(numbers), np.float32)
    runs: Runs = {}
    for classes in numbers:
        settings = {"num_samples": num_samples, "seed": 1}
        config = onnxloss.LossConfig("SampledSoftmaxCrossEntropyLoss", settings)
        model = onnxloss.export(config, logits=(rows, classes))
        feeds = {
            "logits": ones[: rows * classes].reshape(rows, classes),
            "labels": np.random.default_rng(0).integers(0, classes, (rows, 1)),
        }
        run = bound_run(
            model, feeds, {"loss": np.zeros(rows, np.float32)}, library=True, threads=threads
        )
        assert run is not None
        runs[f"K = {classes}", LOSS] = run
    title = f"Sampled softmax, N = {rows}, S = {num_samples}, {threads_text(threads)}"
    return _ratios(title, take_turns(runs, repeats))


def make_run(shape: tuple[int, int], dtype: str, variant: Variant, what: str, threads: int) -> Run:
    """A checked run of the library's kernel."""
    n, classes = shape
    random = np.random.default_rng(1)
    logits = normal_logits(shape, dtype)
    given = random.uniform(0.5, 1.5, classes).astype(np.float32)
    weights = given if variant.class_weights else None
    labels = random.integers(0, classes, n)
    if variant.masked is not None:
        logits = np.where(np.arange(classes) % 2 == 1, variant.masked, logits).astype(logits.dtype)
        labels -= labels % 2
    if variant.half_ignored:
        labels[random.permutation(n)[: n // 2]] = IGNORED
    if variant.soft_labels:
        labels = random.uniform(0, 2 / classes, shape).astype(DTYPES[dtype])
    op = "SoftLabelCrossEntropyLoss" if variant.soft_labels else "SoftmaxCrossEntropyLoss"
    config = onnxloss.LossConfig(op, variant.settings, class_weights=weights)
    model = onnxloss.export(config, logits=shape, dtype=dtype, gradient=what == BOTH)
    loss_shape = (n,) if variant.settings.get("reduction") == "none" else ()
    feeds = {"logits": logits, "labels": labels, "dloss": np.ones(loss_shape, logits.dtype)}
    outputs = {"loss": np.zeros(loss_shape, logits.dtype), "dlogits": np.zeros_like(logits)}
    run = bound_run(model, feeds, outputs, library=True, threads=threads)
    if run is None:
        sys.exit(f"{op} {variant}: no session.")
    results = run()
    if what == BOTH:
        _check_first_rows(logits, labels, weights, variant, results[1])
    return run


def _check_first_rows(
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    variant: Variant,
    dlogits: np.ndarray,
) -> None:
    """Ends the benchmark if the gradient is wrong; 2^-6 is two bfloat16 units in the last place."""
    denominator = 1.0
    if variant.settings.get("reduction", "mean") == "mean":
        counts = np.ones(len(labels)) if variant.soft_labels else labels != IGNORED
        of_label = 1.0 if weights is None else weights[labels]
        denominator = float(np.sum(counts * of_label))
    loss = soft_label_cross_entropy_loss if variant.soft_labels else softmax_cross_entropy_loss
    _, truth = loss(
        logits[:CHECKED_ROWS],
        labels[:CHECKED_ROWS],
        1 / denominator,
        weights,
        **{**variant.settings, "reduction": "sum"},
    )
    error = np.max(np.abs(dlogits[:CHECKED_ROWS].astype(np.float64) - truth))
    if not error <= 2**-6 * np.max(np.abs(truth)):
        sys.exit(f"{variant}: error of dlogits is {error:.1e}.")


_BOTH = (LOSS, BOTH)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _ratios(title: str, times: Times[tuple[str, str]]) -> str:
    """The times as Markdown, with their ratios to those of the first name."""
    names = list(dict.fromkeys(name for name, _ in times.turns))
    whats = [what for what in _BOTH if (names[0], what) in times.turns]
    lines = [
        f"## {title}",
        "",
        "| | " + " | ".join(f"{what}, ms | ratio to {names[0]}" for what in whats) + " |",
        "| --- |" + " ---: | ---: |" * len(whats),
    ]
    for name in names:
        cells = [
            f"{times.seconds((name, what)) * 1e3:.2f} | "
            f"{times.ratio((name, what), (names[0], what)):.2f}"
            for what in whats
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
