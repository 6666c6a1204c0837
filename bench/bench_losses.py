# SPDX-License-Identifier: MIT
"""Times the loss, and loss with gradient, against a copy of the logits and against other runtimes.

Every implementation is checked against the float64 reference of the tests before it is timed. All
are timed in turn, one run each, in one process; the table has the medians. A ratio of 1 is the time
that one thread of numpy takes to copy the logits: it reads and writes each of them once.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from onnx import helper

import onnxloss
from tests.reference import softmax_cross_entropy_loss
from tests.runtime import BFLOAT16, RUNTIME_ERRORS, make_session

SHAPES = (
    "1024x32000",  # 1024 tokens of a Llama 2 vocabulary
    "256x128256",  # 256 tokens of a Llama 3 vocabulary: rows beyond the first-level caches
    "8192x1000",  # a batch of ImageNet
    "65536x10",  # many short rows: CIFAR, digits
)
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": BFLOAT16}
PACKAGES = ("onnxloss", "onnxruntime", "numpy", "torch")
LOSS, BOTH = "loss", "loss + gradient"

Run = Callable[[], tuple[np.ndarray, ...]]
"""Computes the loss, or the loss and the gradient, and gives the arrays that hold them."""


@dataclass(frozen=True)
class Timing:
    """The median time of one implementation: None where it cannot compute this."""

    name: str
    seconds: dict[str, float | None]


@dataclass(frozen=True)
class Problem:
    """The inputs of one row of the benchmark, and its right answers."""

    shape: tuple[int, int]
    dtype: str
    threads: int
    logits: np.ndarray
    labels: np.ndarray
    loss: float
    dlogits: np.ndarray

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes moved at least: the logits read, and with the gradient as many written."""
        return {LOSS: self.logits.nbytes, BOTH: 2 * self.logits.nbytes}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables; with `--markdown` also writes them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="NxC")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    sections = [machine()]
    print(sections[0], flush=True)
    for threads in options.threads:
        for text in options.shapes:
            n, classes = (int(size) for size in text.split("x"))
            problem = make_problem((n, classes), options.dtype, threads)
            sections.append(table(problem, measure(problem, options.repeats)))
            print(f"\n{sections[-1]}", flush=True)
    if options.markdown:
        command = f"python -m bench.bench_losses {' '.join(_without_file(sys.argv[1:]))}".strip()
        text = _HEAD.format(command=command, doc=__doc__.partition("\n\n")[2])
        options.markdown.write_text("\n\n".join([text, *sections]) + "\n")


_HEAD = """\
# Benchmarks

Written by `make bench`, that is `{command}`.

{doc}
The loss is softmax cross entropy with integer labels and the mean over all rows. "Function body" is
the same file without the library registered. ONNX Runtime has no gradient of its own operator.
GB/s counts the logits read once, and with the gradient written once."""


def _without_file(arguments: Sequence[str]) -> list[str]:
    kept = list(arguments)
    if "--markdown" in kept:
        at = kept.index("--markdown")
        del kept[at : at + 2]
    return kept


def machine() -> str:
    """What the numbers depend on besides the code."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), cpu)
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    python = platform.python_version()
    return f"{cpu}, {os.cpu_count()} cores; {versions}; Python {python}, {platform.system()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def make_problem(shape: tuple[int, int], dtype: str, threads: int) -> Problem:
    """Normal logits, as a network has them, and labels drawn evenly."""
    n, classes = shape
    random = np.random.default_rng(n * classes)
    logits = random.standard_normal(shape, np.float32).astype(DTYPES[dtype])
    labels = random.integers(0, classes, n)
    loss, dlogits = 0.0, np.empty(shape, np.float32)
    rows = max(1, 2**22 // classes)  # the reference widens to float64: a block of rows at a time
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        part, dlogits[block] = softmax_cross_entropy_loss(
            logits[block], labels[block], 1 / n, reduction="sum"
        )
        loss += float(part) / n
    return Problem(shape, dtype, threads, logits, labels, loss, dlogits)


def measure(problem: Problem, repeats: int) -> list[Timing]:
    """The timings, the copy first."""
    copy = np.empty_like(problem.logits)
    runs: dict[tuple[str, str], Run] = {}
    for name, make in IMPLEMENTATIONS.items():
        for what in (LOSS, BOTH):
            run = make(problem, what)
            if run is not None:
                check(problem, f"{name}, {what}", run())
                runs[name, what] = run

    times: dict[tuple[str, str], list[float]] = {key: [] for key in (("copy", LOSS), *runs)}
    for _ in range(repeats):
        times["copy", LOSS].append(_seconds(lambda: np.copyto(copy, problem.logits)))
        for key, run in runs.items():
            times[key].append(_seconds(run))
    medians = {key: median(values) for key, values in times.items()}
    return [
        Timing(name, {what: medians.get((name, what)) for what in (LOSS, BOTH)})
        for name in ("copy", *IMPLEMENTATIONS)
    ]


def _seconds(run: Callable[[], object]) -> float:
    # The threads of the implementation before this one spin for a while, waiting for more work.
    time.sleep(0.02)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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


def _library(problem: Problem, what: str) -> Run | None:
    return _onnx_run(problem, _exported(problem, what), library=True)


def _body(problem: Problem, what: str) -> Run | None:
    return _onnx_run(problem, _exported(problem, what), library=False)


def _stock(problem: Problem, what: str) -> Run | None:
    """ONNX's own operator, which ONNX Runtime expands to its parts."""
    if what != LOSS:
        return None
    types = {name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype in DTYPES.items()}
    dtype = types[problem.dtype]
    graph = helper.make_graph(
        [helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "labels"], ["loss"])],
        "stock",
        [
            helper.make_tensor_value_info("logits", dtype, problem.shape),
            helper.make_tensor_value_info("labels", onnx.TensorProto.INT64, problem.shape[:1]),
        ],
        [helper.make_tensor_value_info("loss", dtype, ())],
    )
    opset = [helper.make_opsetid("", 19)]
    return _onnx_run(
        problem, helper.make_model(graph, opset_imports=opset, ir_version=9), library=False
    )


def _torch(problem: Problem, what: str) -> Run | None:
    """PyTorch's eager loss; the gradient by its autograd."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(problem.threads)
    dtype = getattr(torch, problem.dtype)
    logits = torch.from_numpy(problem.logits.astype(np.float32)).to(dtype)
    labels = torch.from_numpy(problem.labels)
    logits.requires_grad_(what == BOTH)

    def run() -> tuple[np.ndarray, ...]:
        loss = torch.nn.functional.cross_entropy(logits, labels)
        if what == LOSS:
            return (loss.float().numpy(),)
        logits.grad = None
        loss.backward()
        # Left in its own dtype, so that no conversion is timed; `check` converts.
        gradient = logits.grad if dtype == torch.float32 else logits.grad.view(torch.int16)
        return loss.detach().float().numpy(), gradient.numpy().view(DTYPES[problem.dtype])

    return run


IMPLEMENTATIONS: dict[str, Callable[[Problem, str], Run | None]] = {
    "onnxloss, library": _library,
    "onnxloss, function body": _body,
    "onnxruntime, ai.onnx SoftmaxCrossEntropyLoss": _stock,
    "torch, eager": _torch,
}


def _exported(problem: Problem, what: str) -> onnx.ModelProto:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    return onnxloss.export(config, logits=problem.shape, dtype=problem.dtype, gradient=what == BOTH)


def _onnx_run(problem: Problem, model: onnx.ModelProto, *, library: bool) -> Run | None:
    """A run with inputs and outputs bound to arrays, so that nothing is copied or allocated."""
    try:
        session = make_session(model, library=library, threads=problem.threads)
    except RUNTIME_ERRORS:
        return None
    one = np.ones((), DTYPES[problem.dtype])
    feeds = {"logits": problem.logits, "labels": problem.labels, "dloss": one}
    shapes = {"loss": (), "dlogits": problem.shape}
    results = {
        output.name: np.zeros(shapes[output.name], DTYPES[problem.dtype])
        for output in session.get_outputs()
    }
    binding = session.io_binding()
    for entry in session.get_inputs():
        binding.bind_input(entry.name, *_buffer(feeds[entry.name]))
    for name, array in results.items():
        binding.bind_output(name, *_buffer(array))

    # The binding knows addresses only: the run holds the arrays themselves.
    return functools.partial(_run_bound, session, binding, feeds, tuple(results.values()))


def _run_bound(
    session: onnxruntime.InferenceSession,
    binding: onnxruntime.IOBinding,
    feeds: dict[str, np.ndarray],
    results: tuple[np.ndarray, ...],
) -> tuple[np.ndarray, ...]:
    session.run_with_iobinding(binding)
    return results


def _buffer(array: np.ndarray) -> tuple[str, int, int, tuple[int, ...], int]:
    """Device, its number, ONNX type, shape and address: the way that takes bfloat16 too."""
    onnx_type = int(helper.np_dtype_to_tensor_dtype(array.dtype))
    return "cpu", 0, onnx_type, array.shape, array.ctypes.data


def table(problem: Problem, timings: list[Timing]) -> str:
    """The timings of one problem as Markdown."""
    copy = timings[0].seconds[LOSS]
    threads = f"{problem.threads} thread{'s' * (problem.threads > 1)}"
    lines = [
        f"## {'x'.join(map(str, problem.shape))} {problem.dtype}, {threads}",
        "",
        f"One copy of the logits by numpy on one thread: {copy * 1e3:.2f} ms.",
        "",
        "| | loss, ms | ratio to copy | GB/s | loss + gradient, ms | ratio to copy | GB/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for timing in timings[1:]:
        cells = []
        for what in (LOSS, BOTH):
            seconds = timing.seconds[what]
            if seconds is None:
                cells += ["-", "-", "-"]
            else:
                rate = problem.bytes[what] / seconds / 1e9
                cells += [f"{seconds * 1e3:.2f}", f"{seconds / copy:.2f}", f"{rate:.1f}"]
        lines.append(f"| {timing.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
