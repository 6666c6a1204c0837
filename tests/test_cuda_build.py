# SPDX-License-Identifier: MIT
"""What `make cuda-compile` finds fault with in a build of the CUDA kernels."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from tools import check_cuda_build as build

PLAIN = "ResidentRows<BFloat16, SoftmaxCrossEntropyLossRow<float, false>, 7>"
HOT = {
    PLAIN: build.Rows("Resident", False, 8, 0),
    "ResidentRows<Half, SoftmaxCrossEntropyLossRow<float, true>, 0>": build.Rows(
        "Resident", False, 1, 2
    ),
    "ResidentRows<float, SoftLabelCrossEntropyLossRow<float>, 7>": build.Rows(
        "Resident", True, 8, 1
    ),
    "StreamedRows<double, SoftLabelCrossEntropyLossRow<double>, (Cap)0>": build.Rows(
        "Streamed", True, 4, 1
    ),
}
OTHERS = (
    "StreamedRows<Half, SoftmaxCrossEntropyLossRow<float, true>, (Cap)1>",
    "StridedRows<float, SoftmaxCrossEntropyLossRow<float, false> >",
    "SampledRows<float>(SampledArguments)",
)
RIGHT = Counter({"LDG.E.EF.128": 8, "STG.E.EF.128": 9, "CALL.REL.NOINC": 9, "FADD": 64})
REPORT = """
ptxas info    : Compiling entry function '{name}' for 'sm_90'
ptxas info    : Function properties for {name}
    {stack} bytes stack frame, {stack} bytes spill stores, {stack} bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers
"""
MANGLED = (
    "_ZN8onnxloss4cuda12ResidentRowsIfNS0_26SoftmaxCrossEntropyLossRowIfLb0EEELi{}EEEv"
    "NS0_9ArgumentsE"
)


def test_which_kernels_are_hot() -> None:
    assert {name: build.hot_rows(name) for name in HOT} == HOT
    assert [name for name in OTHERS if build.hot_rows(name)] == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"LDL": 1, "STL": 2}, "uses local memory 3 times"),
        ({"CALL.ABS.NOINC": 1}, "calls 1 functions"),
        ({"CALL.REL.NOINC": 64}, "calls subroutines 73 times"),
        ({"LDG.E.128.CONSTANT": 8}, "has 16 loads of 16 bytes; expected 8"),
        ({"STG.E.EF.128": -8}, "has 1 stores of 16 bytes; expected 9"),
    ],
)
def test_what_its_instructions_may_be(change: dict[str, int], fault: str | None) -> None:
    found = RIGHT.copy()
    found.update(change)
    faults = list(build.check_instructions(PLAIN, HOT[PLAIN], found))
    assert len(faults) == (fault is not None)
    assert fault is None or f"{PLAIN} {fault}" in faults[0]


def test_a_spill_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt found")
    names = [MANGLED.format(number) for number in (0, 1)]
    log = "".join(REPORT.format(name=name, stack=8 * i) for i, name in enumerate(names))
    targets, faults = build.check_registers(log)
    assert targets == ["sm_90"]
    assert len(faults) == 1 and "has a stack of 8 bytes; at most 0" in faults[0]
    assert "1 of the 2 hot ones" in capsys.readouterr().out
    assert build.check_registers("")[1] == ["the log has no report of ptxas"]
