# SPDX-License-Identifier: MIT
"""Times a training step of onnxruntime-training 1.19.2: its own loss, and onnxloss's.

The model is nothing but a bias on the logits, so that a step is the loss, its gradient and what
both have in common: one addition and one sum over the rows. It runs in the environment of
onnxruntime-training: `.venv-ort-training/bin/python -m bench.bench_ort_training`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import onnxloss
from onnxloss.training import ort

# Not the first import: onnxloss.training.ort lets it be imported without PyTorch.
from onnxruntime.training import artifacts  # isort: skip
from onnxruntime.training.api import CheckpointState, Module  # isort: skip

NAMES = ("onnxruntime.training's own loss", "onnxloss, function body", "onnxloss, library")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the median time of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="1024x32000", metavar="NxC")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    rows, classes = (int(size) for size in options.shape.split("x"))
    random = np.random.default_rng(0)
    batch = (
        random.standard_normal((rows, classes), np.float32),
        random.integers(0, classes, rows),
    )
    print(f"onnxruntime-training {onnxruntime.__version__}, {options.shape} float32, mean")
    for threads in options.threads:
        with tempfile.TemporaryDirectory() as folder:
            modules = [module(Path(folder), name, classes, threads) for name in NAMES]
        times = measure(modules, batch, options.repeats)
        own = times[0]
        for name, seconds in zip(NAMES, times, strict=True):
            print(
                f"{threads} thread{'s' * (threads > 1)}  {name:32} {seconds * 1e3:8.1f} ms"
                f"  {own / seconds:5.1f} times as fast"
            )


def module(folder: Path, name: str, classes: int, threads: int) -> Module:
    """The module of one implementation."""
    own = name == NAMES[0]
    target = folder / name.replace(" ", "_")
    target.mkdir()
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    artifacts.generate_artifacts(
        bias_model(classes),
        requires_grad=["bias"],
        loss=artifacts.LossType.CrossEntropyLoss if own else ort.Loss(config),
        artifact_directory=target,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if name == NAMES[2]:
        onnxloss.register(options)
    state = CheckpointState.load_checkpoint(str(target / "checkpoint"))
    files = [str(target / f"{kind}_model.onnx") for kind in ("training", "eval")]
    return Module(files[0], state, files[1], session_options=options)


def bias_model(classes: int) -> onnx.ModelProto:
    """logits = x + bias."""
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "bias"], ["logits"])],
        "bias",
        [helper.make_tensor_value_info("x", floats, ["N", classes])],
        [helper.make_tensor_value_info("logits", floats, ["N", classes])],
        [numpy_helper.from_array(np.zeros(classes, np.float32), "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def measure(modules: Sequence[Module], batch: tuple, repeats: int) -> list[float]:
    """The median time of a step of each, in turn; the first steps are not counted."""
    losses = [float(each(*batch)) for each in modules]
    if not np.allclose(losses, losses[0], rtol=1e-5):
        raise SystemExit(f"bench: the losses are {losses}; expected the same")
    times: list[list[float]] = [[] for _ in modules]
    for _ in range(repeats):
        for each, seconds in zip(modules, times, strict=True):
            each.lazy_reset_grad()
            start = time.perf_counter()
            each(*batch)
            seconds.append(time.perf_counter() - start)
    return [median(seconds) for seconds in times]


if __name__ == "__main__":
    main()
