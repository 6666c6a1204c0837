# SPDX-License-Identifier: MIT
"""The CUDA operators' way through ONNX Runtime: attributes, inputs, outputs, scratch memory.

Here the host build of the kernels is registered for the CPU's provider, so that ONNX Runtime itself
calls their glue. On a GPU `make test-gpu` runs the suite's own models on CUDAExecutionProvider.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxloss.onnxscript_defs import OpSpec
from tests import cuda_on_host, runtime
from tests.cases import CASES, DTYPES, Case
from tests.models import export_case, raw_arrays, separate_model
from tests.runtime import run_model, run_session
from tests.sampled import SPEC, inputs_of, node_model, run_node, truth
from tests.test_cuda_losses import assert_right
from tests.test_sampled import SHAPES, arrays_of
from tests.test_sampled_errors import BAD_INPUTS, message_of, open_session
from tests.tolerance import assert_kernel_alone

GIVEN = ("samples", "probabilities")
DRAWN = ("drawn_samples", "drawn_probabilities")

# A case of each trait, and one of each registration; long rows are for the kernels' tests.
SHORT = [case for case in CASES if case.inputs.logits.size < 10_000]
ONE_OF_EACH = dict.fromkeys(
    [
        *{(case.loss, case.trait.name): case for case in SHORT}.values(),
        *{(case.loss, case.dtype, case.label_dtype): case for case in SHORT}.values(),
    ]
)

every_case = pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.id)
every_operator = pytest.mark.parametrize("op", SPEC.ops, ids=lambda op: op.name)


@pytest.fixture(autouse=True)
def _cuda_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "OTHER_LIBRARY", cuda_on_host.library_path())


@every_case
def test_loss_and_gradient(case: Case) -> None:
    outputs = run_model(export_case(case), case.inputs.feeds, library=True)
    assert outputs.keys() == case.truth.keys()
    assert_right(outputs, case)


@every_case
def test_separate_operators(case: Case) -> None:
    outputs = run_model(separate_model(case), raw_arrays(case), library=True)
    assert outputs.keys() == case.truth.keys()
    assert_right(outputs, case)


@every_operator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", ["plain", "repeated", "own samples", "no row"])
def test_sampled(name: str, label_dtype: str, dtype: str, op: OpSpec) -> None:
    arrays = arrays_of(name, dtype)
    arrays["labels"] = arrays["labels"].astype(label_dtype)
    settings = {"z_loss": 0.125, "logit_softcap": 4.0}
    wanted: dict[str, Any] = truth(**arrays, **settings)
    wanted |= {drawn: arrays[port] for drawn, port in zip(DRAWN, GIVEN, strict=True)}
    settings["num_samples"] = SHAPES[name]["count"]
    outputs = run_node(op, arrays, library=True, optional=["lse", *DRAWN], **settings)
    assert {port.name for port in op.outputs} == outputs.keys()
    for port, values in outputs.items():
        if port in DRAWN:
            np.testing.assert_array_equal(values, wanted[port])
        else:
            assert_kernel_alone(values, wanted[port], f"{op.name}.{port}")


@pytest.mark.parametrize(("reduction", "loss"), [("mean", np.nan), ("sum", 0.0)])
def test_sampled_reductions(reduction: str, loss: float) -> None:
    arrays = {**arrays_of("many rows", "float64"), "dloss": np.ones(())}
    wanted = truth(**{**arrays, "dloss": 1.0 if reduction == "sum" else 1 / 700})
    settings = {"library": True, "reduction": reduction}
    outputs = run_node(SPEC.forward, arrays, num_samples=33, **settings)
    reduced = wanted["loss"].sum() if reduction == "sum" else wanted["loss"].mean()
    np.testing.assert_allclose(outputs["loss"], reduced, rtol=1e-13)
    outputs = run_node(SPEC.grad, arrays, num_samples=33, **settings)
    np.testing.assert_allclose(outputs["dlogits"], wanted["dlogits"], rtol=1e-13, atol=1e-15)
    empty = {**arrays_of("no row", "float64"), "dloss": np.ones(())}
    outputs = run_node(SPEC.forward, empty, num_samples=3, **settings)
    np.testing.assert_equal(outputs["loss"], loss)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [SPEC.forward, SPEC.loss_and_grad], ids=lambda op: op.name)
@pytest.mark.parametrize("rows", [0, 5, 130])
def test_draws_are_those_of_the_cpu(
    rows: int, op: OpSpec, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = inputs_of(rows, 1000, 2, 300, dtype)
    for port in GIVEN:
        del arrays[port]
    model = node_model(op, arrays, num_samples=300, seed=7, optional=["lse", *DRAWN])
    feeds = {value.name: arrays[value.name] for value in model.graph.input}
    on_cuda = run_model(model, feeds, library=True)
    monkeypatch.setattr(runtime, "OTHER_LIBRARY", None)
    on_cpu = run_model(model, feeds, library=True)
    assert on_cuda.keys() == on_cpu.keys()
    samples, probabilities = (on_cpu[port] for port in DRAWN)
    np.testing.assert_array_equal(on_cuda[DRAWN[0]], samples)
    # Two compilers' logarithms may differ in their last bits.
    np.testing.assert_array_max_ulp(on_cuda[DRAWN[1]], probabilities, maxulp=2)
    wanted = truth(**{**arrays, "samples": samples, "probabilities": probabilities})
    for port in wanted.keys() & on_cuda.keys():
        assert_kernel_alone(on_cuda[port], wanted[port], port)


def test_draws_of_a_session() -> None:
    """Seed 0 draws anew each time, another seed once for each number of classes."""
    arrays = inputs_of(4, 50, 1, 30)
    for port in GIVEN:
        del arrays[port]
    for seed, differ in ((0, True), (3, False)):
        session = open_session(SPEC.forward, arrays, optional=DRAWN, num_samples=30, seed=seed)
        several = [run_session(session, arrays_for(session, classes)) for classes in (50, 70, 50)]
        first, other, again = (outputs["drawn_samples"].tolist() for outputs in several)
        assert (first != again) == differ
        assert first != other
        assert all(len(set(samples)) == 30 for samples in (first, other, again))


def test_what_is_captured_cannot_draw_anew() -> None:
    arrays = inputs_of(4, 50, 1, 30)
    for port in GIVEN:
        del arrays[port]
    library = cuda_on_host.library()
    library.SetCapture(True)
    try:
        run_node(SPEC.forward, arrays, library=True, num_samples=30, seed=3)
        message = message_of(
            lambda: run_node(SPEC.forward, arrays, library=True, num_samples=30, seed=0)
        )
    finally:
        library.SetCapture(False)
    assert f"{SPEC.forward.name}: seed is 0; expected another in a CUDA graph" in message


def arrays_for(session: Any, classes: int) -> dict[str, np.ndarray]:
    arrays = inputs_of(4, classes, 1, 30)
    return {value.name: arrays[value.name] for value in session.get_inputs()}


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "the default stream"])
def test_scratch_memory_is_of_the_stream_and_given_back(stream: bool) -> None:
    library = cuda_on_host.library()
    library.SetStream(stream)
    try:
        case = next(case for case in SHORT if case.trait.name == "sample_weights")
        assert_right(run_model(export_case(case), case.inputs.feeds, library=True), case)
        arrays = arrays_of("own samples", "float32")
        outputs = run_node(SPEC.forward, arrays, num_samples=8, library=True)
        assert_kernel_alone(outputs["loss"], truth(**arrays)["loss"], "loss")
    finally:
        library.SetStream(False)
    assert library.ScratchOfStreams() == 2 * stream
    assert library.ScratchInUse() == 0


@every_operator
@pytest.mark.parametrize("name", ["rank", "labels", "samples", "probabilities"])
def test_sampled_shapes_are_checked(name: str, op: OpSpec) -> None:
    arrays = {
        "dloss": np.ones(2, np.float32),
        "logits": np.zeros((2, 9), np.float32),
        "labels": np.zeros((2, 2), np.int64),
        "samples": np.zeros(3, np.int64),
        "probabilities": np.ones((2, 5), np.float32),
    }
    session = open_session(op, arrays)
    bad, message = BAD_INPUTS[name]
    used = {value.name for value in session.get_inputs()}
    feeds = {port: values for port, values in {**arrays, **bad}.items() if port in used}
    assert f"{op.name}: {message}" in message_of(lambda: session.run(None, feeds))
