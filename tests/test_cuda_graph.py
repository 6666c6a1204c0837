# SPDX-License-Identifier: MIT
"""The CUDA kernels in CUDA graphs: captured once, replayed on other inputs. Needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxloss
from bench.cuda_losses import Problem, Work, fault_of, make_problem, ours
from bench.timing import BOTH, LOSS
from tests.cases import CASES
from tests.cuda_on_gpu import Gpu, gpu
from tests.models import export_case
from tests.tolerance import assert_kernel_alone

# Rows that stay in a warp, a block, a cluster; that are streamed; with sums of weights before.
WORKS = [
    Work(300, 100, "float32", "plain", BOTH),
    Work(64, 5001, "bfloat16", "plain", BOTH),
    Work(16, 128256, "bfloat16", "plain", BOTH),
    Work(512, 4096, "float16", "plain", LOSS),
    Work(64, 1000, "float32", "class weights", BOTH),
    Work(64, 1000, "bfloat16", "soft labels", BOTH),
    Work(64, 1000, "float32", "smoothing", BOTH),
]


@pytest.fixture
def device() -> Iterator[Gpu]:
    yield gpu()


def halve(problem: Problem) -> None:
    """Another input in the same place."""
    problem.logits.mul_(0.5)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: "-".join(map(str, vars(work).values())))
def test_the_kernels_can_be_captured(work: Work, device: Gpu) -> None:
    torch = device.torch
    problem = make_problem(torch, device.device, work)
    run = ours(problem, device)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    halve(problem)
    for output in outputs:
        if output is not None:
            output.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert fault_of(lambda: outputs, problem) is None


@pytest.mark.parametrize("trait", ["plain", "sample_weights", "smoothed_weighted"])
def test_onnx_runtime_captures_them(trait: str, device: Gpu) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDAExecutionProvider")
    case = next(case for case in CASES if (case.trait.name, case.dtype) == (trait, "float32"))
    options = onnxruntime.SessionOptions()
    onnxloss.register(options)
    provider: Any = ("CUDAExecutionProvider", {"enable_cuda_graph": "1"})
    session = onnxruntime.InferenceSession(
        export_case(case).SerializeToString(), options, providers=[provider]
    )
    binding = session.io_binding()
    feeds = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0)
        for name, values in case.inputs.feeds.items()
    }
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")
    given = case.inputs.feeds["logits"]
    # The first run is captured, the others are its replay.
    feeds["logits"].update_inplace(np.zeros_like(given))
    session.run_with_iobinding(binding)
    for _ in range(2):
        feeds["logits"].update_inplace(given)
        session.run_with_iobinding(binding)
        for output, value in zip(session.get_outputs(), binding.get_outputs(), strict=True):
            assert_kernel_alone(value.numpy(), case.truth[output.name], output.name)
