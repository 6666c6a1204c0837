# SPDX-License-Identifier: MIT
"""Bad input to the sampled softmax: a clear error each, and the session usable after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import onnxloss
from onnxloss.onnxscript_defs import OpSpec
from onnxloss.sampled import PADDLE_SAMPLED, TF_SAMPLED
from tests.runtime import RUNTIME_ERRORS, make_session, run_model
from tests.sampled import SPEC, config, inputs_of, node_model, run_node

both_ways = pytest.mark.parametrize("library", [False, True], ids=["body", "library"])


def message_of(action: Callable[[], Any]) -> str:
    with pytest.raises((onnxloss.LossError, *RUNTIME_ERRORS)) as caught:
        action()
    return str(caught.value)


every_operator = pytest.mark.parametrize("op", SPEC.ops, ids=lambda op: op.name)

BAD_INPUTS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "label": ({"labels": np.array([[0, 1], [9, 2]])}, "labels[2] is 9; expected [0, 9)."),
    "negative label": ({"labels": np.array([[0, 1], [2, -1]])}, "labels[3] is -1; expected [0, 9)"),
    "sample": ({"samples": np.array([0, 9, 1])}, "samples[1] is 9; expected [0, 9)."),
    "negative sample": ({"samples": np.array([0, 1, -9])}, "samples[2] is -9; expected [0, 9)."),
    "rank": (
        {"logits": np.zeros((2, 9, 1), np.float32)},
        "rank of logits is 3; expected 2.",
    ),
    "labels": (
        {"labels": np.zeros((2, 3), np.int64)},
        "shape of labels is [2, 3]; expected [2, 2].",
    ),
    "samples": (
        {"samples": np.zeros((2, 5), np.int64)},
        "shape of samples is [2, 5]; expected [3] or [2, 3].",
    ),
    "probabilities": (
        {"probabilities": np.zeros((2, 3), np.float32)},
        "shape of probabilities is [2, 3]; expected [2, 5].",
    ),
}


def open_session(op: OpSpec, arrays: dict[str, np.ndarray], **settings: Any) -> Any:
    model = node_model(op, arrays, **{"num_samples": 3, **settings})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    return make_session(model, library=True)


@every_operator
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs(name: str, op: OpSpec) -> None:
    arrays = {port: values for port, values in inputs_of(2, 9, 2, 3).items()}
    session = open_session(op, arrays)
    used = {value.name for value in session.get_inputs()}
    bad, message = BAD_INPUTS[name]
    feeds = {port: values for port, values in {**arrays, **bad}.items() if port in used}
    assert f"{op.name}: {message}" in message_of(lambda: session.run(None, feeds))
    feeds |= {port: values for port, values in arrays.items() if port in used}
    for values in session.run(None, feeds):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("op", SPEC.ops[1:], ids=lambda op: op.name)
def test_an_upstream_gradient_of_the_wrong_shape(op: OpSpec) -> None:
    arrays = inputs_of(2, 9, 2, 3)
    session = open_session(op, arrays)
    feeds = {**arrays, "dloss": np.zeros((2, 1), np.float32)}
    wanted = f"{op.name}: shape of dloss is [2, 1]; expected [2]."
    assert wanted in message_of(lambda: session.run(None, feeds))


@both_ways
@pytest.mark.parametrize("name", ["label", "negative label", "sample", "negative sample"])
def test_a_bad_index_is_an_error_in_the_body_too(name: str, library: bool) -> None:
    arrays = {**inputs_of(2, 9, 2, 3), **BAD_INPUTS[name][0]}
    message_of(lambda: run_node(SPEC.forward, arrays, num_samples=3, library=library))


def test_more_samples_than_classes() -> None:
    wanted = "num_samples is 10; expected at most the number of classes, 9."
    assert wanted in message_of(lambda: onnxloss.export(config(num_samples=10), logits=("N", 9)))
    model = onnxloss.export(config(num_samples=10), logits=("N", "K"))
    feeds = {"logits": np.zeros((1, 9), np.float32), "labels": np.zeros((1, 1), np.int64)}
    assert wanted in message_of(lambda: run_model(model, feeds, library=True))
    message_of(lambda: run_model(model, feeds, library=False))


def test_the_gradient_alone_refuses_to_draw() -> None:
    arrays = inputs_of(2, 9, 2, 3)
    del arrays["samples"], arrays["probabilities"]
    message_of(lambda: open_session(SPEC.grad, arrays))


@pytest.mark.parametrize("given", ["samples", "probabilities"])
def test_samples_and_probabilities_come_together(given: str) -> None:
    arrays = inputs_of(2, 9, 2, 3)
    other = {"samples": "probabilities", "probabilities": "samples"}[given]
    model = node_model(SPEC.forward, arrays, num_samples=3)
    (node,) = model.graph.node
    node.input[list(node.input).index(other)] = ""
    del model.functions[:]
    session = make_session(model, library=True)
    feeds = {value.name: arrays[value.name] for value in model.graph.input}
    message = message_of(lambda: session.run(None, feeds))
    assert f"input {other} is missing; expected a tensor beside {given}." in message


BAD_ATTRIBUTES = {
    "num_samples": (0, "an integer in [1, 2147483647]"),
    "num_true": (-1, "an integer in [1, 2147483647]"),
    "remove_accidental_hits": (2, "0 or 1"),
    "seed": (2**32, "an integer in [0, 4294967295]"),
    "reduction": ("avg", '"none" or "mean" or "sum"'),
}


@pytest.mark.parametrize("name", BAD_ATTRIBUTES)
def test_bad_attributes(name: str) -> None:
    """Refused by the configuration, and by the kernel in the same words."""
    value, allowed = BAD_ATTRIBUTES[name]
    shown = f'"{value}"' if isinstance(value, str) else value
    message = f"{SPEC.name}: {name} is {shown}; expected {allowed}."
    assert message == message_of(lambda: config(**{name: value}))
    model = node_model(SPEC.forward, inputs_of(2, 9, 1, 1))
    (node,) = model.graph.node
    (attribute,) = (entry for entry in node.attribute if entry.name == name)
    if isinstance(value, str):
        attribute.s = value.encode()
    else:
        attribute.i = value
    assert message in message_of(lambda: make_session(model, library=True))
    node.attribute.remove(attribute)
    missing = f"attribute {name} is missing or of another type; expected "
    assert missing in message_of(lambda: make_session(model, library=True))


def paddle(**settings: Any) -> onnxloss.LossConfig:
    return onnxloss.from_paddle(PADDLE_SAMPLED, **{"num_samples": 3, **settings})


def tensorflow(**settings: Any) -> onnxloss.LossConfig:
    return onnxloss.from_tf(TF_SAMPLED, **{"num_sampled": 3, "num_classes": 9, **settings})


BAD_SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "missing": (lambda: onnxloss.from_paddle(PADDLE_SAMPLED), "num_samples is missing"),
    "unknown": (lambda: paddle(uniq=True), "uniq is not a setting of paddle.fluid"),
    "unknown in tf": (lambda: tensorflow(partition_strategy="mod"), "partition_strategy is not"),
    "no flag": (lambda: paddle(remove_accidental_hits=1), "remove_accidental_hits is 1"),
    "arrays without customized samples": (
        lambda: paddle(customized_samples=np.zeros((2, 4))),
        "customized_samples is <class 'numpy.ndarray'>; expected None without customized samples.",
    ),
    "one array": (
        lambda: paddle(use_customized_samples=True, customized_samples=np.zeros((2, 4))),
        "customized_probabilities is None; expected an array beside customized_samples.",
    ),
    "no sample": (lambda: paddle(num_samples=0), "num_samples is 0"),
    "sampled values": (lambda: tensorflow(sampled_values=1), "sampled_values is 1;"),
    "other sampled values": (lambda: tensorflow(sampled_values="yes"), 'sampled_values is "yes"'),
    "counts": (
        lambda: tensorflow(sampled_values=(np.zeros(3), np.zeros((2, 1)), np.zeros(4))),
        "shape of sampled_expected_count is [4]; expected [3].",
    ),
    "classes": (lambda: tensorflow(num_classes=9.5), "num_classes is 9.5; expected an integer."),
    "more samples than classes": (
        lambda: tensorflow(num_sampled=10),
        "num_sampled is 10; expected at most num_classes, 9.",
    ),
    "no sample in tf": (lambda: tensorflow(num_sampled=0), "num_sampled is 0; expected"),
    "samples of more bits": (
        lambda: tensorflow(num_sampled=2**63, num_classes=2**64),
        "num_sampled is 9223372036854775808; expected",
    ),
    "seed": (lambda: tensorflow(seed="a"), 'seed is "a"; expected an integer or None.'),
    "name": (lambda: tensorflow(name=3), "name is 3; expected a string or None."),
    "other logits": (
        lambda: onnxloss.export(tensorflow(), logits=("N", 8)),
        "shape of logits is [N, 8]; expected [N, 9].",
    ),
    "rank": (
        lambda: onnxloss.export(paddle(), logits=("N", 9, 2)),
        "shape of logits is [N, 9, 2]; expected [N, K].",
    ),
    "labels": (
        lambda: onnxloss.export(paddle(num_true=2), logits=("N", 9), labels=("N", 1)),
        "shape of labels is [N, 1]; expected [N, 2].",
    ),
    "label dtype": (
        lambda: onnxloss.export(paddle(), logits=("N", 9), label_dtype="float32"),
        'label_dtype is "float32"; expected int64 or int32 or uint8.',
    ),
    "dtype": (lambda: onnxloss.export(paddle(), logits=(2, 9), dtype="int8"), 'dtype is "int8"'),
    "outputs": (
        lambda: onnxloss.export(paddle(), logits=("N", 9), outputs=("loss", "log_prob")),
        "outputs is ('loss', 'log_prob'); expected loss, then lse, drawn_samples, drawn_probab",
    ),
    "class weights of a sampled loss": (
        lambda: onnxloss.LossConfig(SPEC.name, class_weights=[1.0, 2.0]),
        "class_weights are given; expected none",
    ),
    "sample weights of a sampled loss": (
        lambda: onnxloss.LossConfig(SPEC.name, sample_weights=True),
        "sample_weights are given; expected none",
    ),
    "samples of another loss": (
        lambda: onnxloss.LossConfig("SoftmaxCrossEntropyLoss", samples="shared"),
        'samples is "shared"; expected drawn.',
    ),
    "classes of another loss": (
        lambda: onnxloss.LossConfig("SoftmaxCrossEntropyLoss", num_classes=3),
        "num_classes is 3; expected None",
    ),
    "values of drawn samples": (
        lambda: onnxloss.LossConfig(SPEC.name, sample_values=(0, 0)),
        "sample_values are given; expected none",
    ),
    "sample weights": (
        lambda: onnxloss.export(paddle(), logits=("N", 9), sample_weights=("N",)),
        "sample_weights is ('N',); expected none",
    ),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings(name: str) -> None:
    action, message = BAD_SETTINGS[name]
    assert message in message_of(action)


def test_paddles_samples_must_repeat_the_labels() -> None:
    """It takes the logits of the first T samples: other labels would go unread."""
    model = onnxloss.export(paddle(use_customized_samples=True), logits=("N", 9))
    feeds = {
        "logits": np.zeros((2, 9), np.float32),
        "labels": np.array([[4], [5]]),
        "samples": np.array([[4, 0, 1, 2], [6, 0, 1, 2]]),
        "probabilities": np.ones((2, 4), np.float32),
    }
    message = message_of(lambda: run_model(model, feeds, library=True))
    assert "labels[1] is -1; expected [0, 9)." in message
    message_of(lambda: run_model(model, feeds, library=False))


def test_as_many_samples_as_classes_and_more_given_ones_are_taken() -> None:
    assert tensorflow(num_sampled=9).attributes["num_samples"] == 9
    assert tensorflow(num_sampled=10, sampled_values="inputs").attributes["num_samples"] == 10
