# SPDX-License-Identifier: MIT
"""Trains a digits classifier in stock onnxruntime: from a forward model and a PyTorch loss."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime
from sklearn.datasets import load_digits
from tqdm import tqdm

import onnxloss
from onnxloss.training import TrainingLoop, initial_state, trained_model

ROOT = Path(__file__).parent.parent
FORWARD = ROOT / "models" / "digits_classifier.onnx"
OUTPUT = ROOT / "build" / "demo"
SMOOTHING = 0.1
EPOCHS, BATCH, LEARNING_RATE = 60, 64, 3e-3
ACCURACY = 0.95

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Makes the training step, trains, measures, and writes the files."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    forward = onnx.load(FORWARD)
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=SMOOTHING)
    step = onnxloss.training_step(forward, config, optimizer="adamw")
    step_path = OUTPUT / "digits_training_step.onnx"
    onnx.save(step, step_path)

    session = make_session(step_path, library=True)
    loop = TrainingLoop(session, initial_state(step, forward))
    training, held_out = split()
    losses = train(session, loop, training, held_out)

    trained_path = OUTPUT / "digits_trained.onnx"
    onnx.save(trained_model(forward, loop.state), trained_path)
    classifier = make_session(trained_path, library=False)
    (logits,) = classifier.run(["logits"], {"pixels": held_out["pixels"]})
    accuracy = float((logits.argmax(1) == held_out["labels"]).mean())
    with_library, with_bodies = time_steps(step_path, loop.state, training)
    plot_path = OUTPUT / "digits_loss.png"
    plot(losses, accuracy, plot_path)

    print(f"train loss              {losses[-1][0]:.4f}")
    print(f"held-out loss           {losses[-1][1]:.4f}")
    print(f"held-out accuracy       {accuracy:.4f}")
    print(f"step, library           {with_library * 1e6:.0f} us")
    print(f"step, function bodies   {with_bodies * 1e6:.0f} us")
    print(f"training step           {step_path}")
    print(f"trained model           {trained_path}")
    print(f"loss curve              {plot_path}")
    if accuracy < ACCURACY:
        sys.exit(f"digits: held-out accuracy is {accuracy:.4f}; expected at least {ACCURACY}.")


def make_session(path: Path, *, library: bool) -> onnxruntime.InferenceSession:
    """A session on one thread: the model is too small for two."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        onnxloss.register(options)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def split() -> tuple[Arrays, Arrays]:
    """The digits in a fixed random order: four fifths to train on, one fifth held out."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    data = {"pixels": pixels[order].astype(np.float32), "labels": labels[order].astype(np.int64)}
    cut = len(order) * 4 // 5
    return {n: a[:cut] for n, a in data.items()}, {n: a[cut:] for n, a in data.items()}


def train(
    session: onnxruntime.InferenceSession, loop: TrainingLoop, training: Arrays, held_out: Arrays
) -> list[tuple[float, float]]:
    """The mean training loss and the held-out loss of each epoch."""
    random = np.random.default_rng(1)
    rate = np.array(LEARNING_RATE, np.float32)
    losses = []
    with tqdm(total=EPOCHS, desc="training", unit="epoch") as bar:
        for _ in range(EPOCHS):
            order = random.permutation(len(training["labels"]))
            batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            epoch = [
                loop.step({**{n: a[rows] for n, a in training.items()}, "learning_rate": rate})
                for rows in batches
            ]
            (loss,) = session.run(["loss"], {**held_out, "learning_rate": rate, **loop.state})
            losses.append((float(np.mean(epoch)), float(loss)))
            bar.set_postfix(train=f"{losses[-1][0]:.3f}", held_out=f"{losses[-1][1]:.3f}")
            bar.update()
    return losses


def time_steps(path: Path, state: Arrays, training: Arrays) -> tuple[float, float]:
    """Median seconds of a step with the library and without, measured in turn."""
    batch = {name: array[:BATCH] for name, array in training.items()}
    feeds = {**batch, "learning_rate": np.array(LEARNING_RATE, np.float32)}
    loops = [TrainingLoop(make_session(path, library=on), state) for on in (True, False)]
    times = np.zeros((500, len(loops)))
    for row in times:
        for column, loop in enumerate(loops):
            start = time.perf_counter()
            loop.step(feeds)
            row[column] = time.perf_counter() - start
    return tuple(np.median(times, axis=0))


def plot(losses: list[tuple[float, float]], accuracy: float, path: Path) -> None:
    """The loss curve as a picture."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    target = np.full(10, SMOOTHING / 10) + (1 - SMOOTHING) * np.eye(10)[0]
    epochs = range(1, len(losses) + 1)
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.plot(epochs, [train for train, _ in losses], label="train")
    axes.plot(epochs, [held_out for _, held_out in losses], label="held out")
    axes.axhline(
        -(target * np.log(target)).sum(), color="gray", linestyle=":", label="least possible"
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"cross entropy, label smoothing {SMOOTHING}")
    axes.set_title(f"Digits, trained in ONNX Runtime: held-out accuracy {accuracy:.1%}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    try:
        main()
    except onnxloss.LossError as error:
        sys.exit(str(error))
