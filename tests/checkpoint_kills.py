# SPDX-License-Identifier: MIT
"""Kills processes while they save a checkpoint, and reads it after each: `<file> <times>`.

A program of its own: forking is safe in a process with one thread only.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np

from onnxloss.training.checkpoint import load_checkpoint, save_checkpoint


def save(path: str, number: int) -> None:
    """Saves arrays full of a number, and the number beside them."""
    tensors = {name: np.full(50_000, number, np.float32) for name in ("w", "w.exp_avg")}
    save_checkpoint(path, tensors, {"number": number})


def main() -> None:
    path, times = sys.argv[1], int(sys.argv[2])
    random.seed(0)
    start = time.monotonic()
    save(path, 0)
    seconds = time.monotonic() - start
    number, cut_off = 0, 0
    for _ in range(times):
        child = os.fork()
        while child == 0:
            number += 1
            save(path, number)
        time.sleep(seconds * random.uniform(0, 4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        cut_off += os.path.exists(f"{path}.new")
        tensors, info = load_checkpoint(path)
        if info["number"] < number or any((a != info["number"]).any() for a in tensors.values()):
            sys.exit(f"after {number} came {info['number']} with {tensors}")
        number = info["number"]
    print(f"{number} saved, {cut_off} cut off")


if __name__ == "__main__":
    main()
