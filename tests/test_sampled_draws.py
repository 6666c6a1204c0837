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
from onnxloss.sampled import TF_SAMPLED
from tests.runtime import make_session, run_model
from tests.sampled import (
    SPEC,
    chance,
    config,
    drawn,
    expected_count,
    inputs_of,
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


@both_ways
@pytest.mark.parametrize(("seed", "fixed"), [(0, True), (5, True), (None, False)])
def test_to_tensorflow_0_is_a_seed_like_any_other(
    seed: int | None, fixed: bool, library: bool
) -> None:
    model = onnxloss.export(
        onnxloss.from_tf(TF_SAMPLED, num_sampled=20, num_classes=1000, seed=seed),
        logits=(1, 1000),
        outputs=("loss", *DRAWN),
    )
    session = make_session(model, library=library)
    feeds = {"logits": np.zeros((1, 1000), np.float32), "labels": np.array([[3]])}
    first, second = (session.run(["drawn_samples"], feeds)[0] for _ in range(2))
    assert np.array_equal(first, second) == fixed


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
    settings = {"num_samples": 15, "optional": DRAWN, "library": library}
    both = run_node(SPEC.loss_and_grad, arrays, **settings)
    arrays |= {"samples": both["drawn_samples"], "probabilities": both["drawn_probabilities"]}
    wanted = truth(**arrays)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    settings.pop("optional")
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
