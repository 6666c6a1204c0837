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


SASS = """
        /*0000*/                   @P0 BRA 0x60 ;                       /* 0x0000000000000947 */
        /*0010*/                   LDG.E.EF.128 R4, desc[UR4][R2.64] ;  /* 0x0000000402047981 */
        /*0020*/              @!P1 BRA 0x50 ;                           /* 0x0000000000000947 */
        /*0030*/                   FADD R4, R4, 1 ;                     /* 0x0000000104047421 */
        /*0040*/                   BRA P2, 0x30 ;                       /* 0x0000000000000947 */
        /*0050*/                   STG.E.EF.128 desc[UR4][R2.64], R4 ;  /* 0x0000000402047981 */
        /*0060*/               @P3 EXIT ;                               /* 0x000000000000094d */
        /*0070*/                   BRA 0x90 ;                           /* 0x0000000000000947 */
        /*0080*/                   FADD R4, R4, 1 ;                     /* 0x0000000104047421 */
        /*0090*/                   EXIT ;                               /* 0x000000000000094d */
"""


def test_the_fewest_instructions_that_leave_no_vector_out() -> None:
    code = build.Instruction.all_of(SASS)
    assert [each.op for each in code][:3] == ["BRA", "LDG.E.EF.128", "BRA"]
    # 00, 10, 20, 50, 60, 70, 90
    assert build.fewest(code) == 7
    assert build.fewest([]) is None
    endless = list(build.check_pace("a kernel", build.Rows("Resident", False, 1, 0), code[:-1]))
    assert endless == ["a kernel has no way from its entry to an end"]


@pytest.mark.parametrize(("most", "fault"), [(0.9, None), (0.8, "takes 0.9 instructions")])
def test_how_many_they_may_be(
    most: float, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.MOST_INSTRUCTIONS, "index", most)
    rows = build.Rows("Resident", False, 1, 0)
    faults = list(build.check_pace("a kernel", rows, build.Instruction.all_of(SASS)))
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


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
