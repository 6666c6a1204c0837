# SPDX-License-Identifier: MIT
"""What the CUDA kernels read and write, and how many instructions they take, as their PTX runs.

A row that stays on chip is read once and written once, counted in sectors of 32 bytes. An H200 has
the time of about 30 instructions of a thread for each 16-bit element that it reads and writes.
`make test-ptx` runs these.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from tests import cuda_calls, cuda_on_host
from tests.cases import DTYPES, HARD, SOFT
from tests.test_cuda_paths import draw

pytestmark = pytest.mark.skipif(cuda_on_host.AS_PTX is None, reason="make test-ptx counts them")

SECTOR = 32
# What a row has beside its classes, and the sectors at its ends that two threads touch.
EXTRA = 0.15
WRITES = {("loss",): 0, ("dlogits",): 1, ("loss", "dlogits"): 1}
every_output = pytest.mark.parametrize("outputs", WRITES, ids="-".join)
every_loss = pytest.mark.parametrize("loss", [HARD, SOFT])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Counts(NamedTuple):
    """Of a run, were nothing kept in caches."""

    read: float  # how often the inputs are read
    written: float  # and the gradient is written
    instructions: float  # of a thread, for each element; about


def counted(
    shape: tuple[int, ...], loss: str, dtype: str, outputs: Sequence[str], path: str
) -> Counts:
    arrays = draw(loss, shape, 1, dtype)
    for name in ("class_weights", "sample_weights"):
        del arrays[name]
    settings = {"axis": 1, "reduction": "none"}
    soft = loss == SOFT
    assert cuda_calls.path_of(settings, arrays, soft=soft) == path
    traffic = (ctypes.c_int64 * 3)()
    cuda_on_host.library().TakeTraffic(traffic)
    cuda_calls.run(settings, arrays, soft=soft, outputs=outputs)
    cuda_on_host.library().TakeTraffic(traffic)
    read, written, instructions = traffic
    logits, labels = arrays["logits"], arrays["labels"]
    return Counts(
        read * SECTOR / (logits.nbytes + labels.nbytes),
        written * SECTOR / logits.nbytes,
        instructions * 32 / logits.size,
    )


# Rows of a warp, of a block, and of clusters of 2 to 16.
@every_dtype
@every_loss
@every_output
@pytest.mark.parametrize("classes", [2000, 4000, 7000, 32000, 50257, 128256])
def test_a_row_on_chip_is_read_once(
    classes: int, outputs: tuple[str, ...], loss: str, dtype: str
) -> None:
    read, written, _ = counted((2, classes), loss, dtype, outputs, "resident")
    assert 1 <= read < 1 + EXTRA
    assert WRITES[outputs] <= written < WRITES[outputs] + EXTRA


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@every_output
def test_rows_of_few_classes_share_sectors(outputs: tuple[str, ...], dtype: str) -> None:
    read, written, _ = counted((4096, 20), SOFT, dtype, outputs, "packed")
    assert 1 <= read < 1 + EXTRA
    assert WRITES[outputs] <= written < WRITES[outputs] + EXTRA


@every_output
def test_a_row_that_no_cluster_holds_is_read_twice(outputs: tuple[str, ...]) -> None:
    read, written, _ = counted((1, 263001), HARD, "float32", outputs, "streamed")
    assert 1 + WRITES[outputs] <= read < 1 + WRITES[outputs] + EXTRA
    assert WRITES[outputs] <= written < WRITES[outputs] + EXTRA


@every_dtype
@every_loss
@every_output
def test_neighbouring_positions_share_sectors(
    outputs: tuple[str, ...], loss: str, dtype: str
) -> None:
    """A gradient of many classes reads once more what the block has read before."""
    for classes, again in ((300, 0), (3000, WRITES[outputs])):
        read, written, _ = counted((2, classes, 64), loss, dtype, outputs, "strided")
        # Each of the threads that share a row reads its label.
        assert 1 + again <= read < 1 + again + 2 * EXTRA
        assert WRITES[outputs] <= written < WRITES[outputs] + EXTRA


@pytest.mark.parametrize(
    ("shape", "path", "most"),
    [
        ((4096, 10), "packed", 76),
        ((4096, 21), "packed", 53),
        ((4096, 100), "resident", 36),
        ((4096, 259), "resident", 24),
        ((2, 50257), "resident", 24),
        ((2, 21, 4096), "strided", 44),
        ((2, 150, 1024), "strided", 38),
    ],
)
def test_what_finishes_a_row_takes_little(shape: tuple[int, ...], path: str, most: float) -> None:
    """Short rows share a warp, and each thread has many elements of them."""
    assert counted(shape, HARD, "bfloat16", ("loss", "dlogits"), path).instructions < most


def test_what_lies_beside_an_array_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of what runs as PTX shows it; this one, that they can."""
    run = cuda_on_host.Host.run

    def narrower(host: cuda_on_host.Host, *given: Any) -> str | None:
        *others, areas = given
        return run(host, *others, [(begin, count - 1) for begin, count in areas])

    monkeypatch.setattr(cuda_on_host.Host, "run", narrower)
    with pytest.raises(AssertionError, match="touches what is in no array"):
        counted((2, 2000), HARD, "float32", ("loss",), "resident")
