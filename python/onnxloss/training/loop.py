# SPDX-License-Identifier: MIT
"""TrainingLoop: runs a training step in ONNX Runtime and feeds its state back without copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LossError, expected
from .step import LOSS, new_name
from .values import NUMPY_TYPES, Value, bind_array, inputs_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding

_FLOATS = [name for name, dtype in NUMPY_TYPES.items() if dtype.kind not in "iub"]


class TrainingLoop:
    """A session of a training step on the CPU, with the state that it works on.

    The state lies in two sets of buffers: a step reads one and writes the other, and the next step
    reads what this one wrote. A step that fails leaves the state as it was.
    """

    def __init__(self, session: InferenceSession, state: Mapping[str, np.ndarray]) -> None:
        """Takes a session of a training step, and copies its first state.

        Raises:
            LossError: The session's model is no training step, or the state is another one's.
        """
        types = {output.name: output.type for output in session.get_outputs()}
        inputs = inputs_of(session.get_inputs())
        names = [name for name in inputs if new_name(name) in types]
        for name in sorted(set(names) ^ set(state)):
            problem = "is missing" if name in names else "is none of the step's states"
            raise LossError(
                f'TrainingLoop: state["{name}"] {problem}; expected those that initial_state gives.'
            )
        if types.get(LOSS) not in _FLOATS:
            raise expected(
                "TrainingLoop", "type of the loss", types.get(LOSS), " or ".join(_FLOATS)
            )
        self._session = session
        for name in names:
            inputs[name].check("TrainingLoop", name, np.asarray(state[name]))
        self._fed = {name: inputs[name] for name in inputs if name not in names}
        self._loss = Value(np.zeros((), NUMPY_TYPES[types[LOSS]]))
        self._values, self._spare = ({name: Value(state[name]) for name in names} for _ in "ab")
        self._binding = self._bind(self._values, self._spare)
        self._spare_binding = self._bind(self._spare, self._values)

    def step(self, feeds: Mapping[str, np.ndarray]) -> float:
        """Runs one step; returns the loss before its update.

        Args:
            feeds: An array for each input but the state: the forward model's inputs, the labels
                and `learning_rate`.

        Raises:
            LossError: An input is missing or unknown, or of another dtype or shape.
        """
        if feeds.keys() != self._fed.keys():
            raise expected("TrainingLoop", "feeds", list(feeds), str(sorted(self._fed)))
        # The binding reads the arrays' memory: copies that order="C" makes live until it has run.
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        try:
            for name, array in arrays.items():
                bind_array(self._binding, name, array)
            self._session.run_with_iobinding(self._binding)
        except Exception:
            # Only now: of a small step the checks are a few hundredths.
            for name, array in arrays.items():
                self._fed[name].check("TrainingLoop", name, array)
            raise
        # At one stroke: a Ctrl-C comes before or after it.
        self._values, self._spare, self._binding, self._spare_binding = (
            *(self._spare, self._values),
            *(self._spare_binding, self._binding),
        )
        return float(self._loss.numpy())

    @property
    def values(self) -> Mapping[str, Value]:
        """The state, in the buffers that the next step reads."""
        return self._values

    @property
    def state(self) -> dict[str, np.ndarray]:
        """A copy of the state."""
        return {name: value.numpy().copy() for name, value in self._values.items()}

    def _bind(self, read: Mapping[str, Value], written: Mapping[str, Value]) -> IOBinding:
        binding = self._session.io_binding()
        binding.bind_ortvalue_output(LOSS, self._loss.ort)
        for name in read:
            binding.bind_ortvalue_input(name, read[name].ort)
            binding.bind_ortvalue_output(new_name(name), written[name].ort)
        return binding
