# SPDX-License-Identifier: MIT
"""Times training steps in stock ONNX Runtime against PyTorch's eager mode.

Both train the same model with AdamW from the same parameters, on the same batches; the losses of
the first steps are compared. The ways take turns in one process, a few steps of each, as a training
runs one step after another; each step is timed by itself, and the table has the medians. PyTorch's
step is zero_grad, forward, loss, backward, step and the loss as a Python number.

* `Trainer.step`: the state stays in ONNX Runtime's buffers.
* `session.run`: the same session, with the state fed and fetched as numpy arrays at each step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime

import onnxloss
from bench.bench_losses import machine
from tests.forward_models import Arrays, language_model, parameters_of

ROOT = Path(__file__).parent.parent
RATE = 1e-3
TOLERANCE = 1e-3
"""Of a loss: both round in float32, in another order."""

Step = Callable[[Arrays], float]


@dataclass(frozen=True)
class Problem:
    """A model, what it is fed, and how many times each way trains on all of that."""

    title: str
    forward: onnx.ModelProto
    batches: list[Arrays]
    rounds: int
    heads: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables; with `--markdown` also writes them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    sections = [machine()]
    print(sections[0], flush=True)
    for threads in options.threads:
        for problem in problems(options.vocabulary, options.rounds):
            sections.append(table(problem, threads, measure(problem, threads)))
            print(f"\n{sections[-1]}", flush=True)
    if options.markdown:
        head = f"# Training steps\n\nWritten by `make bench-training`.\n\n{__doc__.strip()}"
        options.markdown.write_text("\n\n".join([head, *sections]) + "\n")


def problems(vocabulary: int, rounds: int) -> list[Problem]:
    """The digits classifier of `make demo`, and a transformer language model."""
    random = np.random.default_rng(0)
    images = [
        {
            "pixels": random.integers(0, 17, (64, 64)).astype(np.float32),
            "labels": random.integers(0, 10, 64),
        }
        for _ in range(20)
    ]
    n, length, width = 4, 128, 128
    sentences = []
    for _ in range(4):
        tokens = random.integers(0, vocabulary, (n, length + 1))
        sentences.append({"tokens": tokens[:, :-1], "labels": tokens[:, 1:].reshape(-1)})
    model = language_model(vocabulary, width, heads=4, layers=2, length=length)
    digits = onnx.load(ROOT / "models" / "digits_classifier.onnx")
    return [
        Problem("Digits, perceptron 64-64-10, batch 64", digits, images, 20 * rounds),
        Problem(
            f"Transformer, 2 layers of {width}, vocabulary {vocabulary}, {n} x {length} tokens",
            model,
            sentences,
            rounds,
            heads=4,
        ),
    ]


def measure(problem: Problem, threads: int) -> dict[str, float]:
    """The median seconds of a step by each way."""
    ways: dict[str, Callable[[Problem, int], Step | None]]
    ways = {"Trainer.step": _trainer, "session.run": _session, "torch, eager": _torch}
    made = {name: make(problem, threads) for name, make in ways.items()}
    steps = {name: step for name, step in made.items() if step is not None}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(problem.rounds):
        losses = {name: [] for name in steps}
        for name, step in steps.items():
            for batch in problem.batches:
                start = time.perf_counter()
                losses[name].append(step(batch))
                times[name].append(time.perf_counter() - start)
        if round_ == 0:  # over thousands of steps rounding makes two trainings of one
            _check(losses)
    return {name: median(values) for name, values in times.items()}


def _check(losses: dict[str, list[float]]) -> None:
    """Ends the benchmark if the ways train differently: a wrong step is no step."""
    first, *others = losses.values()
    for values in others:
        if not np.allclose(values, first, rtol=0, atol=TOLERANCE):
            sys.exit(f"losses are {losses}; expected them equal to {TOLERANCE:.0e}.")


def _trainer(problem: Problem, threads: int) -> Step:
    step, options = _step(problem), _options(threads)
    trainer = onnxloss.Trainer(step, problem.forward, learning_rate=RATE, session_options=options)
    return trainer.step


def _session(problem: Problem, threads: int) -> Step:
    step = _step(problem)
    session = onnxruntime.InferenceSession(
        step.SerializeToString(), _options(threads), providers=["CPUExecutionProvider"]
    )
    state = onnxloss.initial_state(step, problem.forward)
    names = ["loss", *(f"{name}.new" for name in state)]
    rate = np.array(RATE, np.float32)

    def run(batch: Arrays) -> float:
        loss, *new = session.run(names, {**batch, "learning_rate": rate, **state})
        state.update(zip(state, new, strict=True))
        return float(loss)

    return run


def _step(problem: Problem) -> onnx.ModelProto:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.1)
    frozen = [name for name in ("mask",) if name in parameters_of(problem.forward)]
    return onnxloss.training_step(problem.forward, config, optimizer="adamw", frozen=frozen)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    onnxloss.register(options)
    return options


def _torch(problem: Problem, threads: int) -> Step | None:
    try:
        import torch
    except ImportError:
        return None
    from tests.frameworks import torch_forward

    torch.set_num_threads(threads)
    arrays = parameters_of(problem.forward)
    p = {n: torch.tensor(a, requires_grad=n != "mask") for n, a in arrays.items()}
    optimizer = torch.optim.AdamW([t for t in p.values() if t.requires_grad], lr=RATE)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def run(batch: Arrays) -> float:
        inputs, labels = (torch.from_numpy(array) for array in batch.values())
        optimizer.zero_grad()
        if problem.heads:
            logits = torch_forward.language_model(p, inputs, heads=problem.heads)
        else:
            logits = torch_forward.digits_classifier(p, inputs)
        loss = loss_of(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def table(problem: Problem, threads: int, seconds: dict[str, float]) -> str:
    """The timings of one problem as Markdown."""
    reference = seconds.get("torch, eager")
    lines = [
        f"## {problem.title}, {threads} thread{'s' * (threads > 1)}",
        "",
        "| | step, ms | times as fast as torch |",
        "| --- | ---: | ---: |",
    ]
    for name, median_ in seconds.items():
        ratio = f"{reference / median_:.2f}" if reference else "-"
        lines.append(f"| {name} | {median_ * 1e3:.3f} | {ratio} |")
    extra = seconds["Trainer.step"] - seconds["session.run"]
    lines += ["", f"Trainer.step takes {extra * 1e6:+.0f} us more than session.run."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
