# SPDX-License-Identifier: MIT
"""Trainer: trains with a step graph, evaluates, saves and goes on."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..errors import LossError, check_type, expected
from ..opset import check_model
from .checkpoint import check_place, load_checkpoint, save_checkpoint
from .evaluation import Evaluator, evaluation_model, without_forward_outputs
from .interrupts import interrupts
from .loop import TrainingLoop
from .optimizers import LEARNING_RATE, is_count, is_number
from .plot import plot_losses
from .progress import Progress
from .schedules import Schedule
from .sessions import default_options, make_session
from .state import initial_state, trained_model
from .step import METADATA_KEY, metadata
from .values import NUMPY_TYPES, check_batch

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

Batch = Mapping[str, np.ndarray]
Batches = Iterable[Batch] | Callable[[int], Iterable[Batch]]
_HISTORY = "onnxloss.history."
"""What the names of a checkpoint's tensors begin with that are no state."""


class Trainer:
    """Trains with a step graph in stock ONNX Runtime, on the CPU.

    Attributes:
        steps: How many steps have been run.
        epoch: How many epochs are complete.
        batch: How many batches of the present epoch are done.
        losses: The loss of each step, before its update.
        evaluations: The step and the loss of each evaluation that `fit` made.

    Example:
        >>> step = onnxloss.training_step(forward, config, optimizer="adamw")
        >>> trainer = onnxloss.Trainer(step, forward, learning_rate=1e-3)
        >>> trainer.fit(batches, epochs=10, checkpoint="run.safetensors")
        >>> onnx.save(trainer.trained_model(), "trained.onnx")
    """

    def __init__(
        self,
        step: onnx.ModelProto,
        start: onnx.ModelProto | Mapping[str, np.ndarray],
        *,
        learning_rate: float | Schedule,
        session_options: SessionOptions | None = None,
    ) -> None:
        """Makes a session of a step graph and gives it its first state.

        Args:
            step: The model that `training_step` made.
            start: The forward model that it was made of, whose parameters are the start; or the
                first state, as `initial_state` gives it.
            learning_rate: A constant rate, or a function of the number of updates so far, such as
                those of `onnxloss.training.schedules`.
            session_options: By default those of ONNX Runtime, with the custom-operator library
                where it is installed; and one thread for a state of less than a million numbers,
                since waking a second one costs more than it saves.

        Raises:
            LossError: The step is another model, or does not fit the start.
        """
        check_model("Trainer", step, "step")
        if not isinstance(start, onnx.ModelProto):
            allowed = "the forward model, an onnx.ModelProto, or a dictionary: the first state"
            check_type("Trainer", "start", start, Mapping, allowed)
        entries = metadata(step)
        if METADATA_KEY not in entries:
            raise LossError("Trainer: step is another model; expected one of training_step.")
        if not (callable(learning_rate) or _is_rate(learning_rate)):
            allowed = "a number of at least 0, or a function of the number of updates"
            raise expected("Trainer", LEARNING_RATE, learning_rate, allowed)
        self._settings: dict[str, Any] = json.loads(entries[METADATA_KEY])
        self._forward = start if isinstance(start, onnx.ModelProto) else None
        self._step = step
        state = initial_state(step, start) if isinstance(start, onnx.ModelProto) else start
        self._options = session_options or default_options(state)
        self._session = make_session(without_forward_outputs(step), self._options)
        types = {value.name: value.type for value in self._session.get_inputs()}
        self._rate_dtype = NUMPY_TYPES[types[LEARNING_RATE]]
        self._learning_rate = learning_rate
        self._evaluator: Evaluator | None = None
        self._loop = TrainingLoop(self._session, state)
        for name in self._loop.values:
            if name.startswith(_HISTORY):
                raise expected("Trainer", "name of a state", name, f'no name with "{_HISTORY}"')
        self.steps = self.epoch = self.batch = 0
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float]] = []

    @property
    def state(self) -> dict[str, np.ndarray]:
        """A copy of the state: parameters, moments and buffers by name."""
        return self._loop.state

    def step(self, batch: Batch) -> float:
        """Runs one step; returns the loss before its update.

        Args:
            batch: An array for each input of the forward model, and the labels.

        Raises:
            LossError: An input is missing or unknown, or of another dtype or shape; or the learning
                rate is no finite number of at least 0.
        """
        check_batch("Trainer", batch)
        loss = self._loop.step({**batch, LEARNING_RATE: self._rate()})
        self.steps += 1
        self.losses.append(loss)
        return loss

    def fit(
        self,
        batches: Batches,
        *,
        epochs: int = 1,
        held_out: Iterable[Batch] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        progress: bool = True,
    ) -> None:
        """Trains until `epochs` epochs are complete, those from before a `load` included.

        Ctrl-C ends the training after the step that is running, with the checkpoint saved. `fit`
        goes on from there: the batches of the epoch that are done are taken from `batches` once
        more and passed over. A second Ctrl-C ends it at once, perhaps within a step.

        Args:
            batches: Batches as for `step`, in an iterable that can be read again in each epoch; or
                a function that makes the batches of an epoch, which is its argument (0, 1, ...).
                For a run that goes on bit for bit it gives the same batches each time.
            epochs: How many epochs the training has in all.
            held_out: Batches to evaluate on after each epoch.
            checkpoint: The file to save to after each epoch and at the end.
            checkpoint_every: Saves after this many steps too.
            progress: Whether tqdm, if it is installed, shows a progress bar.

        Raises:
            LossError: As `step`; or `batches` is empty, or data that is needed once more can be
                read only once, or `checkpoint` cannot be written.
            KeyboardInterrupt: After Ctrl-C.
        """
        _check_counts(epochs, checkpoint, checkpoint_every)
        more = epochs - self.epoch > 1
        if not callable(batches):
            _check_readable("batches", batches, again=more or self.batch > 0)
        if held_out is not None:
            _check_readable("held_out", held_out, again=more)
        if checkpoint is not None:
            check_place("Trainer.fit", checkpoint)
        with interrupts() as interrupted, Progress(progress, epochs) as bar:
            while self.epoch < epochs:
                for batch in self._rest_of_epoch(batches):
                    bar.show(self.epoch, self.step(batch))
                    self.batch += 1
                    due = checkpoint_every and self.steps % checkpoint_every == 0
                    if checkpoint is not None and (due or interrupted.is_set()):
                        self.save(checkpoint)
                    if interrupted.is_set():
                        raise KeyboardInterrupt
                if not self.batch:
                    raise LossError("Trainer.fit: batches is empty; expected a batch or more.")
                self.epoch, self.batch = self.epoch + 1, 0
                if held_out is not None:
                    self.evaluations.append((self.steps, self.evaluate(held_out)))
                    bar.evaluated(self.evaluations[-1][1])
                if checkpoint is not None:
                    self.save(checkpoint)
                if interrupted.is_set():
                    raise KeyboardInterrupt

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """The loss on other data, with the parameters as they are.

        What is before the loss is the forward model, where the Trainer was made with it, and else
        the step's own part. A BatchNormalization uses its running statistics.

        Args:
            batches: Batches as for `step`.

        Returns:
            The sum of the batches' losses where the loss is a sum. Where it is a mean, the mean of
            the batches' losses, each weighted with its number of labels, ignored ones included.

        Raises:
            LossError: An input is missing, or there is no batch.
        """
        if self._evaluator is None:
            self._evaluator = Evaluator(
                make_session(evaluation_model(self._step, self._forward), self._options)
            )
        labels, mean = self._settings["labels"], self._settings["reduction"] == "mean"
        total, weight = 0.0, 0
        for batch in batches:
            loss = self._evaluator.loss(self._loop.values, batch)
            size = np.size(batch[labels]) if mean else 1
            total += size * loss
            weight += size
        if not weight:
            raise LossError("Trainer.evaluate: batches is empty; expected a batch or more.")
        return total / weight if mean else total

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint: the state, the place in the data, and the losses so far.

        The file is written beside, brought to the disk and renamed: whenever the process is killed,
        what has the name `path` is a whole checkpoint, the old one or the new one.

        Raises:
            LossError: The safetensors package is missing.
            OSError: The file cannot be written.
        """
        history = {
            "losses": np.array(self.losses, np.float64),
            "evaluations": np.array(self.evaluations, np.float64).reshape(-1, 2),
        }
        tensors = {**self.state, **{_HISTORY + name: array for name, array in history.items()}}
        place = {name: getattr(self, name) for name in ("steps", "epoch", "batch")}
        save_checkpoint(path, tensors, {**place, "training_step": self._settings})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a checkpoint: `fit` with the same data then continues bit for bit.

        Raises:
            LossError: The file is no checkpoint, is cut off or has changed, or is that of another
                training step; the Trainer is as it was.
            OSError: The file cannot be read.
        """
        tensors, info = load_checkpoint(path)
        losses, evaluations = (tensors.pop(_HISTORY + n) for n in ("losses", "evaluations"))
        self._check_fits(path, tensors, info)
        self._loop = TrainingLoop(self._session, tensors)
        self.steps, self.epoch, self.batch = (info[name] for name in ("steps", "epoch", "batch"))
        self.losses = losses.tolist()
        self.evaluations = [(int(step), loss) for step, loss in evaluations.tolist()]

    def trained_model(self, forward: onnx.ModelProto | None = None) -> onnx.ModelProto:
        """The forward model with the parameters and buffers as they are now, for inference.

        Args:
            forward: The forward model, where the Trainer was not made with it.

        Raises:
            LossError: There is no forward model, or the state does not fit it.
        """
        forward = forward or self._forward
        if forward is None:
            allowed = "the forward model: the Trainer was made with a state"
            raise expected("Trainer.trained_model", "forward", None, allowed)
        return trained_model(forward, self.state)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the losses so far into a picture, a PNG file for example.

        Raises:
            LossError: The matplotlib package is missing.
        """
        plot_losses(path, self.losses, self.evaluations)

    def _rate(self) -> np.ndarray:
        rate = self._learning_rate
        if callable(rate):
            update = self.steps // self._settings["accumulation_steps"]
            rate = rate(update)
            if not _is_rate(rate):
                allowed = "a finite number of at least 0"
                raise expected("Trainer", f"{LEARNING_RATE} of update {update}", rate, allowed)
        return np.asarray(rate, self._rate_dtype)

    def _rest_of_epoch(self, batches: Batches) -> Iterator[Batch]:
        epoch = batches(self.epoch) if callable(batches) else batches
        return itertools.islice(epoch, self.batch, None)

    def _check_fits(
        self, path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], info: Any
    ) -> None:
        mine = {name: value.numpy() for name, value in self._loop.values.items()}
        for name in sorted({*mine, *tensors}):
            given, wanted = (_described(arrays.get(name)) for arrays in (tensors, mine))
            if given != wanted:
                raise LossError(f'Trainer.load: "{name}" in {path} is {given}; expected {wanted}.')
        theirs = info["training_step"]
        for name in sorted({*theirs, *self._settings}):
            if theirs.get(name) != self._settings.get(name):
                wanted = f"{self._settings.get(name)}, as in this training step"
                raise expected("Trainer.load", f"{name} in {path}", theirs.get(name), wanted)


def _described(array: np.ndarray | None) -> str:
    return "missing" if array is None else f"{array.dtype.name} of shape {array.shape}"


def _is_rate(value: Any) -> bool:
    """Whether it is a finite number of at least 0; an array of one too, as schedules of optax."""
    number = value.item() if np.shape(value) == () and hasattr(value, "item") else value
    return is_number(number) and bool(number >= 0)


def _check_counts(epochs: int, checkpoint: Any, checkpoint_every: int | None) -> None:
    if not is_count(epochs, least=0):
        raise expected("Trainer.fit", "epochs", epochs, "an integer of at least 0")
    if checkpoint_every is None:
        return
    if checkpoint is None or not is_count(checkpoint_every):
        allowed = "None, or an integer of at least 1 and a checkpoint to save to"
        raise expected("Trainer.fit", "checkpoint_every", checkpoint_every, allowed)


def _check_readable(name: str, batches: Any, *, again: bool) -> None:
    """Refuses what holds no batches, or cannot be read `again`."""
    kind = type(batches).__name__
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise expected("Trainer.fit", name, kind, "an iterable of batches")
    if again and isinstance(batches, Iterator):
        allowed = "an iterable that can be read once more"
        allowed += ", or a function of the epoch" * (name == "batches")
        raise expected("Trainer.fit", name, kind, allowed)
