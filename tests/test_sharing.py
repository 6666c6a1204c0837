# SPDX-License-Identifier: MIT
"""One session for many threads, and buffers that lie anywhere: the same bits each time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import onnxloss
from tests.cases import HARD, OPS
from tests.runs import both_losses, make_inputs
from tests.runtime import make_session

THREADS = 8
RUNS = 10_000
# Tiles, long rows, more than one task: each thread has a shape of its own.
SHAPES = ((3, 5), (64, 10), (65, 33), (700, 16), (2, 191), (5, 192), (4, 2049), (2, 9000))


def open_session(loss: str) -> Any:
    """A session for any N and C, with two threads of its own."""
    model = onnxloss.export(
        onnxloss.LossConfig(OPS[loss], {"label_smoothing": 0.1}), logits=("N", "C"), gradient=True
    )
    return make_session(model, library=True, threads=2)


def bits(session: Any, feeds: Mapping[str, np.ndarray]) -> tuple[bytes, ...]:
    """The outputs as they lie in memory."""
    return tuple(values.tobytes() for values in session.run(None, dict(feeds)))


@both_losses
def test_many_threads_share_a_session(loss: str) -> None:
    session = open_session(loss)
    feeds = [make_inputs(loss, shape) for shape in SHAPES]
    expected = [bits(open_session(loss), given) for given in feeds]
    right = [0] * THREADS

    def work(thread: int) -> None:
        for _ in range(RUNS // THREADS):
            right[thread] += bits(session, feeds[thread]) == expected[thread]

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [RUNS // THREADS] * THREADS


@pytest.mark.parametrize("offset", [1, 2, 4, 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_buffers_may_lie_anywhere(shape: tuple[int, int], offset: int) -> None:
    """Inputs that are not aligned even to their element, and the memory beside the output."""
    feeds = make_inputs(HARD, shape)
    expected = dict(zip(("loss", "dlogits"), open_session(HARD).run(None, feeds), strict=True))
    session = open_session(HARD)
    binding = session.io_binding()
    memory = {}
    for name, array in {**feeds, "dlogits": np.zeros_like(feeds["logits"])}.items():
        memory[name] = np.full(array.nbytes + 2 * offset, 0xA5, np.uint8)
        view = memory[name][offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        pointer = {"shape": array.shape, "buffer_ptr": view.ctypes.data}
        place = {"device_type": "cpu", "device_id": 0, "element_type": array.dtype.type}
        (binding.bind_output if name == "dlogits" else binding.bind_input)(name, **place, **pointer)
    binding.bind_output("loss")
    session.run_with_iobinding(binding)
    found = memory["dlogits"]
    assert found[offset:-offset].tobytes() == expected["dlogits"].tobytes()
    assert (found[:offset] == 0xA5).all() and (found[-offset:] == 0xA5).all()
    (loss,) = (v.numpy() for v in binding.get_outputs() if v.shape() == [])
    assert loss == expected["loss"]
