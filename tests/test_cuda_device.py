# SPDX-License-Identifier: MIT
"""What the CUDA library makes of the device: a chip whose clusters it misses is slow, not wrong."""

from __future__ import annotations

import pytest

from tests import cuda_on_host
from tests.cuda_on_gpu import gpu


def test_a_gpu_has_the_clusters_of_its_generation() -> None:
    device = gpu()
    found = cuda_on_host.largest_cluster(device.functions)
    capability = device.torch.cuda.get_device_capability()
    if capability < (9, 0):
        assert found == 1
    elif capability == (9, 0) and "MIG" not in device.torch.cuda.get_device_name():
        assert found == 16
    else:
        assert found >= 8


@pytest.mark.skipif(cuda_on_host.GPU_WANTED, reason="it runs on a GPU")
def test_any_chip_answers() -> None:
    library = cuda_on_host.library()
    for blocks in (1, 8, 16):
        library.SetLargestCluster(blocks)
        assert cuda_on_host.largest_cluster(library) == blocks
