# SPDX-License-Identifier: MIT
"""The sampled softmax with samples that it draws: which, how often, and what they cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxloss
from onnxloss.functions import build_function
from onnxloss.onnxscript_defs import OpSpec
from onnxloss.sampled import PADDLE_SAMPLED, TF_SAMPLED
from tests.runtime import RUNTIME_ERRORS, make_session, run_model
from tests.sampled import (
    SPEC,
    chance,
    config,
    drawn,
    expected_count,
    inputs_of,
    node_model,
    run_node,
    truth,
)

both_ways = pytest.mark.parametrize("library", [False, True], ids=["body", "library"])
DRAWN = ("drawn_samples", "drawn_probabilities")


def draw(
    classes: int, count: int, seed: int, *, library: bool, rows: int = 2, dtype: str = "float64"
) -> dict[str, np.ndarray]:
    """One call's samples and expected counts, those of the labels 0, 1, ... among them."""
    model = onnxloss.export(
        config(num_samples=count, seed=seed, num_true=2),
        logits=("N", classes),
        dtype=dtype,
        outputs=("loss", *DRAWN),
    )
    logits = np.zeros((rows, classes), np.dtype(dtype))
    labels = np.arange(2 * rows).reshape(rows, 2) % classes
    return run_model(model, {"logits": logits, "labels": labels}, library=library)


# As pinned in the tests of Paddle's operator.
@pytest.mark.parametrize(
    ("classes", "count", "seed", "tries", "first", "last"),
    [
        (20, 10, 10, 21, [5, 15, 1, 0, 8], [3, 14, 2, 13, 4]),
        (100, 80, 123, 323, [3, 12, 74, 28, 1, 79, 2, 42, 8, 13], [68, 72, 61, 52, 86]),
    ],
)
def test_the_kernel_draws_paddles_samples(
    classes: int, count: int, seed: int, tries: int, first: list[int], last: list[int]
) -> None:
    values = draw(classes, count, seed, library=True)
    samples = values["drawn_samples"].tolist()
    assert (samples[: len(first)], samples[-len(last) :]) == (first, last)
    assert (samples, tries) == drawn(classes, count, seed)
    wanted = [expected_count(v, classes, count, tries) for v in samples]
    for row, q in enumerate(values["drawn_probabilities"]):
        labels = (2 * row, 2 * row + 1)
        of_labels = [expected_count(v, classes, count, tries) for v in labels]
        np.testing.assert_allclose(q, of_labels + wanted, rtol=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 12345, 2**31, 2**32 - 1])
@pytest.mark.parametrize(("classes", "count"), [(1, 1), (2, 2), (7, 1), (5000, 300)])
def test_the_kernel_draws_what_the_engine_gives(classes: int, count: int, seed: int) -> None:
    samples, tries = drawn(classes, count, seed)
    values = draw(classes, count, seed, library=True)
    assert values["drawn_samples"].tolist() == samples
    wanted = [expected_count(v, classes, count, tries) for v in samples]
    np.testing.assert_allclose(values["drawn_probabilities"][0, 2:], wanted, rtol=1e-9)


@both_ways
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_expected_counts_are_of_one_number_of_tries(dtype: str, library: bool) -> None:
    """Q = 1 - (1 - p)^num_tries of every column, with one num_tries of at least S."""
    values = draw(1000, 40, 7, library=library, rows=50, dtype=dtype)
    samples = values["drawn_samples"]
    assert len(set(samples.tolist())) == 40
    labels = np.arange(100).reshape(50, 2)
    columns = np.concatenate([labels, np.broadcast_to(samples, (50, 40))], axis=1)
    p = np.array([[chance(int(v), 1000) for v in row] for row in columns])
    q = values["drawn_probabilities"].astype(np.float64)
    tries = np.log1p(-q) / np.log1p(-p)
    assert 40 < tries[49, 0] < 100
    if library:
        assert tries[49, 0] == pytest.approx(drawn(1000, 40, 7)[1], rel=1e-5)
    np.testing.assert_allclose(tries, tries[49, 0], rtol=1e-9 if dtype == "float64" else 1e-5)


def test_no_repeated_draw_makes_q_a_multiple_of_p() -> None:
    """num_tries = S, where the exponential would be near, but not the same."""
    seed = next(seed for seed in range(1, 50) if drawn(1000, 3, seed)[1] == 3)
    values = draw(1000, 3, seed, library=True)
    wanted = [3 * chance(v, 1000) for v in (0, 1, *values["drawn_samples"].tolist())]
    np.testing.assert_allclose(values["drawn_probabilities"][0], wanted, rtol=1e-14)


def chi_square(counts: dict[Any, int], chances: dict[Any, float]) -> tuple[float, float]:
    """The statistic, and a bound that one in 10^6 passes, if that many."""
    total = sum(counts.values())
    statistic = sum((counts.get(k, 0) - total * p) ** 2 / (total * p) for k, p in chances.items())
    freedom = len(chances) - 1
    # Wilson and Hilferty's cube of a normal variable, 5 deviations out.
    return statistic, freedom * (1 - 2 / (9 * freedom) + 5 * sqrt(2 / (9 * freedom))) ** 3


def pairs(classes: int) -> dict[tuple[int, int], float]:
    """The chance of two distinct draws in their order."""
    p = [chance(v, classes) for v in range(classes)]
    total = sum(p)
    return {
        (a, b): p[a] / total * p[b] / (total - p[a])
        for a in range(classes)
        for b in range(classes)
        if a != b
    }


def assert_distributed(one: Callable[[int], np.ndarray], runs: int) -> None:
    """Holds `runs` draws of two of six classes to the distribution, and to no other."""
    counts: dict[tuple[int, int], int] = {}
    for run in range(runs):
        pair = tuple(one(run).tolist())
        counts[pair] = counts.get(pair, 0) + 1
    chances = pairs(6)
    statistic, bound = chi_square(counts, chances)
    assert statistic < bound, counts
    statistic, bound = chi_square(counts, dict.fromkeys(chances, 1 / 30))
    assert statistic > bound, "the uniform distribution would pass too"


@both_ways
def test_samples_of_each_call_are_distributed_as_they_should(library: bool) -> None:
    onnxruntime.set_seed(1)
    model = onnxloss.export(config(num_samples=2), logits=(1, 6), outputs=("loss", DRAWN[0]))
    session = make_session(model, library=library)
    feeds = {"logits": np.zeros((1, 6), np.float32), "labels": np.zeros((1, 1), np.int64)}
    assert_distributed(lambda _: session.run(["drawn_samples"], feeds)[0], 6000)


@both_ways
def test_samples_of_each_seed_are_distributed_as_they_should(library: bool) -> None:
    model = onnxloss.export(config(num_samples=2), logits=(1, 6), outputs=("loss", DRAWN[0]))
    (node,) = model.graph.node
    # The generic function has not the seed folded in.
    given = DRAWN[:1]
    model.functions[0].CopyFrom(build_function(SPEC, SPEC.forward, given=given, opset=19))
    (seed,) = (attribute for attribute in node.attribute if attribute.name == "seed")
    feeds = {"logits": np.zeros((1, 6), np.float32), "labels": np.zeros((1, 1), np.int64)}

    def one(run: int) -> np.ndarray:
        seed.i = run + 1
        return run_model(model, feeds, library=library)["drawn_samples"]

    assert_distributed(one, 300)


@both_ways
def test_the_body_counts_tries_as_the_kernel_does(library: bool) -> None:
    """On average: 60 distinct ones of 200 classes take as many draws."""
    wanted = np.mean([drawn(200, 60, seed)[1] for seed in range(1, 301)])
    onnxruntime.set_seed(1)
    model = onnxloss.export(
        config(num_samples=60), logits=(1, 200), dtype="float64", outputs=("loss", DRAWN[1])
    )
    session = make_session(model, library=library)
    feeds = {"logits": np.zeros((1, 200)), "labels": np.full((1, 1), 199)}
    q = [session.run(["drawn_probabilities"], feeds)[0][0, 0] for _ in range(1000)]
    tries = np.log1p(-np.array(q)) / np.log1p(-chance(199, 200))
    assert tries.mean() == pytest.approx(wanted, rel=0.03)


@both_ways
def test_a_seed_gives_the_same_samples_in_each_call_and_0_others(library: bool) -> None:
    feeds = {"logits": np.zeros((1, 500), np.float32), "labels": np.zeros((1, 1), np.int64)}
    for seed, same in ((7, True), (0, False)):
        model = onnxloss.export(
            config(num_samples=20, seed=seed), logits=(1, 500), outputs=("loss", DRAWN[0])
        )
        session = make_session(model, library=library)
        first, second = (session.run(["drawn_samples"], feeds)[0] for _ in range(2))
        assert (first.tolist() == second.tolist()) == same


@both_ways
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_alone_takes_what_the_loss_has_drawn(dtype: str, library: bool) -> None:
    arrays = inputs_of(20, 60, 2, 15, dtype)
    del arrays["samples"], arrays["probabilities"]
    settings = {"num_samples": 15, "drawn": True, "library": library}
    both = run_node(SPEC.loss_and_grad, arrays, **settings)
    arrays |= {"samples": both["drawn_samples"], "probabilities": both["drawn_probabilities"]}
    wanted = truth(**arrays)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    settings.pop("drawn")
    results = {**both, "alone": run_node(SPEC.grad, arrays, **settings)["dlogits"]}
    for name, port in (("loss", "loss"), ("dlogits", "dlogits"), ("alone", "dlogits")):
        np.testing.assert_allclose(results[name], wanted[port], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_kernel_gives_the_same_bits_on_any_number_of_threads(
    reduction: str, dtype: str
) -> None:
    arrays = inputs_of(3000, 97, 3, 64, dtype)
    if reduction == "mean":
        arrays["dloss"] = np.ones((), np.float32)
    settings: dict[str, Any] = {"num_samples": 64, "reduction": reduction, "library": True}
    one, four = (
        run_node(SPEC.loss_and_grad, arrays, threads=threads, **settings) for threads in (1, 4)
    )
    for port, values in one.items():
        assert values.tobytes() == four[port].tobytes()


_LARGE = """
import resource, sys, numpy as np
from tests.runtime import make_session
from tests.test_sampled_draws import large_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

classes = 10_000_000
logits = np.ones((1, classes), np.float32)
session = make_session(large_model(), library=True)
labels = np.array([[1]])
session.run(None, {"logits": np.ones((1, 8192), np.float32), "labels": labels})
before = peak()
loss, samples = session.run(None, {"logits": logits, "labels": labels})
assert np.isfinite(loss).all() and len(np.unique(samples)) == 8192
print(peak() - before)
"""


def large_model() -> Any:
    """8192 samples of any number of classes."""
    return onnxloss.export(
        config(num_samples=8192, seed=1), logits=("N", "K"), outputs=("loss", DRAWN[0])
    )


def test_ten_million_classes_take_no_memory_of_their_own() -> None:
    """What grows from 8192 classes to 10 million is far below a byte a class."""
    done = subprocess.run(
        [sys.executable, "-c", _LARGE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3_000_000


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
        lambda: onnxloss.export(paddle(), logits=("N", 9), outputs=("loss", "lse")),
        "outputs is ('loss', 'lse'); expected loss, then drawn_samples, drawn_probabilities",
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
