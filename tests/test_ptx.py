# SPDX-License-Identifier: MIT
"""What runs PTX on the host (tests/cpp/ptx.h), on kernels written by hand."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from tests import cuda_on_host

KERNEL = """
.version 9.0
.target sm_90
.address_size 64
.shared .align 16 .b8 kept[4096];
.visible .entry kernel(
	.param .align 8 .b8 kernel_param_0[16]
)
.maxntid 1024, 1, 1
{{
	.reg .pred %p<9>;
	.reg .b32 %r<99>;
	ld.param.u64 %rd1, [kernel_param_0];
	ld.param.u64 %rd2, [kernel_param_0+8];
	cvta.to.global.u64 %rd3, %rd1;
	mov.u32 %r1, %tid.x;
	mov.u32 %r2, %ctaid.x;
	mov.u32 %r3, %ntid.x;
	mad.lo.s32 %r4, %r2, %r3, %r1;
	mul.wide.s32 %rd4, %r4, {size};
	add.s64 %rd5, %rd3, %rd4; // where the thread's input lies
	add.s64 %rd6, %rd2, %rd4; // and its output
{body}
	ret;
}}
"""

Run = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def run_ptx(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the bodies, which may overlap, and returns what they wrote.

    `sectors` becomes what the last one read and wrote.
    """
    built = tmp_path_factory.mktemp("ptx") / "libptx.so"
    call = cuda_on_host.compiled(cuda_on_host.CPP / "ptx_call.cc", *cuda_on_host.EXACT)
    cuda_on_host.link(built, [*cuda_on_host.interpreter(), call])
    function = ctypes.CDLL(str(built)).RunPtx
    function.restype = ctypes.c_char_p

    def run(
        *bodies: str,
        given: np.ndarray,
        dtype: type = np.uint32,
        threads: int = 32,
        cluster: int = 1,
        sectors: list[int] | None = None,
    ) -> np.ndarray:
        # On a boundary of 32 bytes.
        memory = np.full((2, given.size + 8), 0xAB, given.dtype)
        begin = -memory.ctypes.data % 32 // given.itemsize
        inputs, outputs = memory[:, begin : begin + given.size]
        inputs[:] = given
        pointers = (ctypes.c_uint64 * 2)(inputs.ctypes.data, outputs.ctypes.data)
        counted = (ctypes.c_int64 * 2)()
        blocks = ctypes.c_int64(given.size // threads)
        for number, body in enumerate(bodies):
            text = KERNEL.format(size=given.itemsize, body=body).encode()
            grid = (blocks, threads, cluster, number > 0)
            failure = function(text, b"kernel", *grid, pointers, counted)
            if failure is not None:
                raise RuntimeError(failure.decode())
        if sectors is not None:
            sectors[:] = counted
        return outputs.view(dtype).copy()

    return run


NUMBERS = np.array([0, 1, 2, 31, 32, 2**31 - 1, 2**31, 2**32 - 1] * 4, np.uint32)
REALS = np.array([0, -0.0, 1, -1.5, 3e38, 1e-40, np.inf, np.nan] * 4, np.float32)


BF16 = [0x3F803F80, 0x4000FF80, 0x40407FC0, 0x7FC0BF80]  # 1 1, 2 -inf, 3 nan, nan -1
TWOS = "0x40004000"


def told(comparison: str) -> str:
    """1 where it is true."""
    return f"setp.{comparison}; selp.u32 %r6, 1, 0, %p1;"


def bits(*words: int) -> np.ndarray:
    return np.resize(np.array(words, np.uint32), 32)


@pytest.mark.parametrize(
    ("operation", "given", "expected"),
    [
        ("add.s32 %r6, %r5, 1;", NUMBERS, NUMBERS + np.uint32(1)),
        ("shr.s32 %r6, %r5, 40;", NUMBERS, np.where(NUMBERS >> 31, 2**32 - 1, 0)),
        ("shl.b32 %r6, 1, %r5;", NUMBERS, np.where(NUMBERS < 32, 2 ** (NUMBERS % 32), 0)),
        ("min.s32 %r6, %r5, 5;", NUMBERS, np.minimum(NUMBERS.view(np.int32), 5)),
        (told("lt.f32 %p1, %r5, 0f3F800000"), REALS, REALS < 1),
        (told("ltu.f32 %p1, %r5, 0f3F800000"), REALS, ~(REALS >= 1)),
        (told("ne.f32 %p1, %r5, %r5"), REALS, np.zeros(32)),
        (told("neu.f32 %p1, %r5, %r5"), REALS, np.isnan(REALS)),
        (told("gt.u32 %p2, %r5, 1; xor.pred %p1, %p2, -1"), NUMBERS, NUMBERS <= 1),
        (
            "mov.u32 %r6, 7; setp.eq.s32 %p1, %r5, 1; @!%p1 mov.u32 %r6, 9;",
            NUMBERS,
            np.where(NUMBERS == 1, 7, 9),
        ),
        (
            f"max.bf16x2 %r6, %r5, {TWOS};",
            bits(*BF16),
            bits(0x40004000, 0x40004000, 0x40404000, 0x40004000),
        ),
        (
            f"min.NaN.bf16x2 %r6, %r5, {TWOS};",
            bits(*BF16),
            bits(0x3F803F80, 0x4000FF80, 0x40007FC0, 0x7FC0BF80),
        ),
        (
            "cvt.rn.bf16x2.f32 %r6, %r5, 0f3F800000;",
            bits(0x40408000, 0x40418000, 0x40418001),
            bits(0x40403F80, 0x40423F80, 0x40423F80),
        ),
        (
            "cvt.rn.f16x2.f32 %r6, 0f40000000, %r5;",
            bits(0x3F800000, 0x47800000),
            bits(0x40003C00, 0x40007C00),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_instructions(
    run_ptx: Run, operation: str, given: np.ndarray, expected: np.ndarray
) -> None:
    """Wrapping, shifts beyond a register, comparisons with nan, pairs, which half comes first."""
    body = f"ld.global.u32 %r5, [%rd5]; {operation} st.global.u32 [%rd6], %r6;"
    result = run_ptx(body, given=given)
    np.testing.assert_array_equal(result, expected.astype(np.int64).astype(np.uint32))


def test_exponentials_are_as_far_off_as_a_gpu_s_may_be(run_ptx: Run) -> None:
    x = np.linspace(-120, 0, 4096, dtype=np.float32)
    body = "ld.global.f32 %f1, [%rd5]; ex2.approx.ftz.f32 %f2, %f1; st.global.f32 [%rd6], %f2;"
    result = run_ptx(body, given=x, dtype=np.float32)
    error = result / np.exp2(x.astype(np.float64)) - 1
    for worst in (error.max(), -error.min()):
        assert 2**-22 < worst < 2**-22 + 2**-24  # its rounding
    small = run_ptx(body, given=np.float32([-200, -127, -125, -0.0] * 8), dtype=np.float32)
    assert small[:2].tolist() == [0, 0] and small[2] > 0 and small[3] == 1


LOOP = """
	ld.global.u32 %r5, [%rd5];
	mov.u32 %r6, 0;
$loop:
	setp.ge.u32 %p1, %r6, %r5;
	@%p1 bra $out;
	add.s32 %r6, %r6, 1;
	bra.uni $loop;
$out:
	shfl.sync.bfly.b32 %r7|%p2, %r6, 1, 31, -1;
	st.global.u32 [%rd6], %r7;
"""


def test_lanes_that_part_meet_again(run_ptx: Run) -> None:
    counts = np.arange(64, dtype=np.uint32) * 7 % 40
    result = run_ptx(LOOP, given=counts)
    np.testing.assert_array_equal(result, counts.reshape(-1, 2)[:, ::-1].ravel())


SHARE = """
	ld.global.u32 %r5, [%rd5];
	shl.b32 %r6, %r1, 2;
	mov.u32 %r7, kept;
	add.s32 %r8, %r7, %r6;
	st.shared.u32 [%r8], %r5;
	{barrier}
	sub.s32 %r9, %r3, 1;
	sub.s32 %r9, %r9, %r1;
	shl.b32 %r9, %r9, 2;
	cvt.u64.u32 %rd7, %r9;
	{{ .reg .b64 %tmp; cvt.u64.u32 %tmp, %r7; cvta.shared.u64 %rd8, %tmp; }}
	add.s64 %rd9, %rd8, %rd7;
	mov.b32 %r10, %cluster_ctarank;
	mov.b32 %r11, %cluster_nctarank;
	sub.s32 %r11, %r11, 1;
	sub.s32 %r12, %r11, %r10;
	mapa.u64 %rd10, %rd9, %r12;
	ld.u32 %r13, [%rd10];
	st.global.u32 [%rd6], %r13;
	{leave}
"""
TOGETHER = "barrier.cluster.arrive; barrier.cluster.wait;"


@pytest.mark.parametrize("cluster", [1, 4])
def test_blocks_share_memory(run_ptx: Run, cluster: int) -> None:
    given = np.arange(4 * 96, dtype=np.uint32)
    body = SHARE.format(barrier=TOGETHER, leave=TOGETHER)
    result = run_ptx(body, given=given, threads=96, cluster=cluster)
    expected = given.reshape(4 // cluster, -1)[:, ::-1].ravel()
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("missing", ["barrier", "leave"])
def test_a_missing_barrier_shows(run_ptx: Run, missing: str) -> None:
    """Blocks run one by one, and the memory of one that has ended is no more."""
    barriers = {"barrier": TOGETHER, "leave": TOGETHER, missing: ""}
    given = np.arange(4 * 96, dtype=np.uint32)
    result = run_ptx(SHARE.format(**barriers), given=given, threads=96, cluster=4)
    assert (result == 2**32 - 1).any()


APART = "setp.ne.s32 %p1, %r1, 0; @%p1 "


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("add.s64 %rd7, %rd5, 4; ld.global.u64 %rd8, [%rd7];", "no boundary of its size"),
        ("mov.u32 %r5, kept; ld.shared.u32 %r6, [%r5+4096];", "beyond the shared memory"),
        ("mov.b64 %rd7, kernel_param_0; ld.param.u64 %rd8, [%rd7+16];", "beyond the parameters"),
        (f"{APART} bar.sync 0; {TOGETHER}", "never reach a barrier"),
        ("barrier.cluster.arrive; barrier.cluster.arrive;", "arrives where it has arrived"),
        ("barrier.cluster.wait;", "waits where it has not arrived"),
        (f"{APART} shfl.sync.idx.b32 %r5|%p2, %r1, 0, 31, -1;", "lanes that do not come"),
        ("mapa.u64 %rd7, %rd5, 3;", "beyond the cluster"),
        ("frob.u32 %r5, %r1;", "unknown frob.u32"),
        ("add.s32 %r5, %r1, nothing;", "unknown nothing"),
        ("add.s32 %r5, %r1, 1x;", "unknown 1x"),
    ],
)
def test_faults(run_ptx: Run, body: str, fault: str) -> None:
    with pytest.raises(RuntimeError, match=fault):
        run_ptx(body, given=np.zeros(64, np.uint32), threads=64)


COPY = "ld.global.u32 %r5, [%rd5]; st.global.u32 [%rd6], %r5;"
DOUBLE = "ld.global.u32 %r5, [%rd6]; add.s32 %r5, %r5, %r5; st.global.u32 [%rd6], %r5;"
START, WAIT = "griddepcontrol.launch_dependents;", "griddepcontrol.wait;"


def test_launches_that_overlap_wait_for_what_they_touch(run_ptx: Run) -> None:
    given = np.arange(96, dtype=np.uint32)
    result = run_ptx(START + COPY, START + WAIT + DOUBLE, WAIT + DOUBLE, given=given)
    np.testing.assert_array_equal(result, 4 * given)
    with pytest.raises(RuntimeError, match="touches what a launch before may be writing still"):
        run_ptx(COPY, DOUBLE + WAIT, given=given)
    with pytest.raises(RuntimeError, match="ends before the launch before it"):
        run_ptx(COPY, "", given=given)


def test_sectors(run_ptx: Run) -> None:
    """Neighbours share one; each far from another has its own, and shared memory has none."""
    given, near, far = np.zeros(64, np.uint32), [0, 0], [0, 0]
    run_ptx(COPY, given=given, sectors=near)
    assert near == [8, 8]
    # Each of eight times 32 threads has the whole of one.
    body = "mul.wide.s32 %rd7, %r1, 32; add.s64 %rd8, %rd3, %rd7; ld.global.u32 %r5, [%rd8];"
    run_ptx(body, given=np.zeros(8 * 32, np.uint32), sectors=far)
    assert far == [256, 0]
    body = "mov.u32 %r5, kept; ld.shared.u32 %r6, [%r5]; st.global.u32 [%rd6], %r6;"
    run_ptx(body, given=given, sectors=near)
    assert near == [0, 8]
