# SPDX-License-Identifier: MIT
"""What `onnxloss.training.ort.Loss` does beside one plain loss, in onnxruntime-training 1.19.2.

Usage: python -m tests.ort_training.blocks

Each check prints its name, or what is wrong.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import onnxloss
from onnxloss.training import ort

# Not the first import: onnxloss.training.ort lets it be imported without PyTorch.
from onnxruntime.training import artifacts, onnxblock  # isort: skip
from onnxruntime.training.api import CheckpointState, Module  # isort: skip

RANDOM = np.random.default_rng(3)
FLOAT = onnx.TensorProto.FLOAT

# From each framework what its door adds around the operator: the label's class axis, casts of
# labels, smoothing outside, probabilities for logits, arrays of weights, sampled classes.
CONFIGURATIONS = {
    "torch_weighted": (
        onnxloss.from_torch("torch.nn.CrossEntropyLoss", weight=np.float32([1, 2, 0.5, 3])),
        {"labels": RANDOM.integers(0, 4, (3, 5))},
        (3, 4, 5),
    ),
    "paddle_label_axis": (
        onnxloss.from_paddle("paddle.nn.functional.cross_entropy", ignore_index=2),
        {"labels": RANDOM.integers(0, 4, (3, 5, 1))},
        (3, 5, 4),
    ),
    # With smoothing Paddle takes indices and probabilities; the labels' dtype tells the kind.
    "paddle_other_labels": (
        onnxloss.from_paddle("paddle.nn.functional.cross_entropy", label_smoothing=0.1),
        {"labels": RANDOM.dirichlet(np.ones(4), 6).astype(np.float32)},
        (6, 4),
    ),
    "tf_no_ignored_label": (
        onnxloss.from_tf("keras.losses.SparseCategoricalCrossentropy", from_logits=True),
        {"labels": RANDOM.integers(0, 4, (6,))},
        (6, 4),
    ),
    "keras_probabilities": (
        onnxloss.from_tf("keras.losses.CategoricalCrossentropy", label_smoothing=0.1),
        {"labels": RANDOM.dirichlet(np.ones(4), 6).astype(np.float32)},
        (6, 4),
    ),
    "tf_weights": (
        onnxloss.from_tf("tf.compat.v1.losses.softmax_cross_entropy", label_smoothing=0.2),
        {
            "labels": RANDOM.dirichlet(np.ones(4), 6).astype(np.float32),
            "sample_weights": np.float32([1, 0, 2, 1, 1, 3]),
        },
        (6, 4),
    ),
    "sampled": (
        onnxloss.LossConfig(
            "SampledSoftmaxCrossEntropyLoss",
            {"num_samples": 20, "num_true": 2, "reduction": "mean", "seed": 5},
        ),
        {"labels": RANDOM.integers(0, 20, (7, 2))},
        (7, 20),
    ),
    "sampled_given": (
        onnxloss.LossConfig(
            "SampledSoftmaxCrossEntropyLoss",
            {"num_samples": 3, "reduction": "sum"},
            samples="shared",
        ),
        {
            "labels": RANDOM.integers(0, 20, (7, 1)),
            "samples": np.array([3, 11, 4]),
            "probabilities": RANDOM.uniform(0.1, 0.9, (7, 4)).astype(np.float32),
        },
        (7, 20),
    ),
}


def session_options(*, library: bool) -> onnxruntime.SessionOptions:
    """Options without log lines, with the library or not."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library:
        onnxloss.register(options)
    return options


def model_of(*, logits: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model whose outputs are its parameters `p_<output>`."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"p_{name}"], [name]) for name in logits],
        "parameters",
        [],
        [helper.make_tensor_value_info(name, FLOAT, a.shape) for name, a in logits.items()],
        [numpy_helper.from_array(array, f"p_{name}") for name, array in logits.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def step(
    model: onnx.ModelProto, block: onnxblock.Block, feeds: list, *, library: bool
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and the gradient of each parameter."""
    names = [tensor.name for tensor in model.graph.initializer]
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            model, requires_grad=names, loss=block, artifact_directory=folder
        )
        state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
        module = Module(
            f"{folder}/training_model.onnx",
            state,
            f"{folder}/eval_model.onnx",
            session_options=session_options(library=library),
        )
        loss = float(module(*feeds))
        return loss, {name: state.parameters[name].grad for name in names}


def exported(
    config: onnxloss.LossConfig, feeds: dict, logits: np.ndarray, *, library: bool
) -> tuple[float, np.ndarray]:
    """The loss and its gradient of the model that `onnxloss.export` makes."""
    labels, weights = feeds["labels"], feeds.get("sample_weights")
    model = onnxloss.export(
        config,
        logits=logits.shape,
        labels=labels.shape,
        sample_weights=None if weights is None else weights.shape,
        label_dtype=labels.dtype.name,
        gradient=True,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(library=library)
    )
    inputs = {"logits": logits, "dloss": np.ones((), np.float32), **feeds}
    loss, dlogits = session.run(["loss", "dlogits"], inputs)
    return float(loss), dlogits


def assert_close(got: object, wanted: object) -> None:
    """As near as float32 is, after a sum."""
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)


def check_a_configuration(name: str) -> None:
    """Its loss and gradient are those of the exported model."""
    config, feeds, shape = CONFIGURATIONS[name]
    logits = RANDOM.uniform(0.05, 1.0, shape).astype(np.float32)
    model = model_of(logits={"logits": logits})
    if config.label_axis != "dropped":
        labels = feeds["labels"]
        elem_type = helper.np_dtype_to_tensor_dtype(labels.dtype)
        model.graph.input.append(helper.make_tensor_value_info("labels", elem_type, labels.shape))
    weighted = "sample_weights" if "sample_weights" in feeds else None
    for library in (False, True):
        block = ort.Loss(config, label_dtype=feeds["labels"].dtype.name, sample_weights=weighted)
        loss, gradients = step(model, block, list(feeds.values()), library=library)
        wanted_loss, wanted = exported(config, feeds, logits, library=library)
        assert_close(loss, wanted_loss)
        assert_close(gradients["p_logits"], wanted)
        assert np.abs(wanted).max() > 1e-3


class Sum(onnxblock.Block):
    """The sum of the losses of two outputs."""

    def __init__(self, first: ort.Loss, second: ort.Loss) -> None:
        super().__init__()
        self.first, self.second, self.add = first, second, onnxblock.blocks.Add()

    def build(self, left: str, right: str) -> str:
        """Puts a loss behind each output."""
        return self.add(self.first(left), self.second(right))


# The second of a pair shares the function of the first, or cannot: it has other inputs.
PAIRS = {
    "settings": ({"label_smoothing": 0.3}, {"ignore_index": 1, "reduction": "sum"}),
    "inputs": ({}, {"weight": np.float32([1, 2, 0.5, 3])}),
    "the_same": ({}, {}),
}


def check_two_losses_in_one_graph(name: str) -> None:
    """Each has its own settings, forward and backward."""
    labels = RANDOM.integers(0, 4, 6)
    logits = {n: RANDOM.standard_normal((6, 4)).astype(np.float32) for n in ("left", "right")}
    configs = [onnxloss.from_torch("torch.nn.CrossEntropyLoss", **s) for s in PAIRS[name]]
    for library in (False, True):
        block = Sum(*(ort.Loss(config) for config in configs))
        loss, gradients = step(model_of(logits=logits), block, [labels], library=library)
        wanted = [
            exported(config, {"labels": labels}, array, library=library)
            for config, array in zip(configs, logits.values(), strict=True)
        ]
        assert_close(loss, wanted[0][0] + wanted[1][0])
        assert_close(gradients["p_left"], wanted[0][1])
        assert_close(gradients["p_right"], wanted[1][1])


def check_kernels_run_with_the_library() -> None:
    """The optimized training model keeps both operators then, and has neither without it."""
    config = onnxloss.from_tf("keras.losses.SparseCategoricalCrossentropy", from_logits=True)
    for loss in (config, onnxloss.from_torch("torch.nn.CrossEntropyLoss")):
        with tempfile.TemporaryDirectory() as folder:
            artifacts.generate_artifacts(
                model_of(logits={"logits": np.zeros((2, 3), np.float32)}),
                requires_grad=["p_logits"],
                loss=ort.Loss(loss),
                artifact_directory=folder,
            )
            for library in (False, True):
                options = session_options(library=library)
                options.optimized_model_filepath = f"{folder}/optimized.onnx"
                onnxruntime.InferenceSession(f"{folder}/training_model.onnx", options)
                nodes = onnx.load(options.optimized_model_filepath).graph.node
                ours = {node.op_type for node in nodes if node.domain == "onnxloss"}
                names = {"SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossGrad"}
                assert ours == (names if library else set()), ours


def check_the_gradient_is_in_the_training_model() -> None:
    """As a node of its own, with all settings; the inference model has no loss."""
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.25)
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            model_of(logits={"logits": np.zeros((2, 3), np.float32)}),
            requires_grad=["p_logits"],
            loss=ort.Loss(config),
            artifact_directory=folder,
        )
        nodes = onnx.load(f"{folder}/training_model.onnx").graph.node
        gradient = next(n for n in nodes if n.op_type == "SoftmaxCrossEntropyLossGrad")
        settings = {entry.name: helper.get_attribute_value(entry) for entry in gradient.attribute}
        assert gradient.domain == "onnxloss"
        assert settings["label_smoothing"] == 0.25 and settings["ignore_index"] == -100
        state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
        files = f"{folder}/training_model.onnx", state, f"{folder}/eval_model.onnx"
        module = Module(*files, session_options=session_options(library=False))
        module.eval()
        module.export_model_for_inferencing(f"{folder}/inference.onnx", ["logits"])
        kept = onnx.load(f"{folder}/inference.onnx").graph.node
        assert [node.op_type for node in kept] == ["Identity"], kept


def check_what_does_not_fit_is_refused() -> None:
    """By our own error, before a file is written."""
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")

    def of(**changes: object) -> onnx.ModelProto:
        model = model_of(logits={"logits": np.zeros((2, 3), np.float32)})
        for name, value in changes.items():
            setattr(model, name, value)
        return model

    newer = of()
    newer.opset_import[0].version = 22
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: ort.Loss("torch.nn.CrossEntropyLoss"), "config is .* expected a LossConfig"),
        (lambda: build(of(ir_version=11), ort.Loss(config)), "ir_version of the model is 11"),
        (lambda: build(newer, ort.Loss(config)), "ai.onnx version of the model is 22"),
        (lambda: build(of(), ort.Loss(config, labels="p_logits")), "labels is .p_logits."),
    ]
    for call, pattern in refused:
        np.testing.assert_raises_regex(onnxloss.LossError, pattern, call)


def build(model: onnx.ModelProto, loss: ort.Loss) -> None:
    """Makes the files."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            artifacts.generate_artifacts(
                model, requires_grad=["p_logits"], loss=loss, artifact_directory=folder
            )
        finally:
            assert not list(Path(folder).iterdir())


def checks() -> Iterator[tuple[str, Callable[[], None]]]:
    """All checks by name."""
    for name in CONFIGURATIONS:
        yield name, lambda name=name: check_a_configuration(name)
    for name in PAIRS:
        yield f"two losses: {name}", lambda name=name: check_two_losses_in_one_graph(name)
    for check in (
        check_kernels_run_with_the_library,
        check_the_gradient_is_in_the_training_model,
        check_what_does_not_fit_is_refused,
    ):
        yield check.__name__, check


def main() -> int:
    """Runs the checks."""
    failures = 0
    for name, check in checks():
        try:
            check()
            print(f"{name}: right")
        # Any error is a finding to print, and no reason to stop.
        except Exception as error:
            failures += 1
            print(f"{name}: {type(error).__name__}: {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
