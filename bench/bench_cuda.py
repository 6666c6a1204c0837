# SPDX-License-Identifier: MIT
"""Times the CUDA kernels on a GPU beside torch.compile, Liger-Kernel and QuACK.

Every implementation is checked on its first rows against float64 before it is timed. Each run
starts with a flushed L2 cache and is timed by CUDA events; the table has the medians. "of copy" is
the share of the copy bandwidth, measured in the same run, that a kernel reaches which reads the
logits once and, with a gradient, writes it once.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import onnxloss
from tests.cuda_calls import LossCall

# Rows of real vocabularies: Llama 2, GPT-2 (no multiple of a vector), Llama 3, Qwen 2.5, Gemma; and
# ImageNet's classes.
CLASSES = (1000, 32000, 50257, 128256, 151936, 262144)
ROWS = (512, 8192, 32768)
DTYPES = ("bfloat16", "float32")
MOST_BYTES = 20 << 30
LOSS, BOTH = "loss", "loss + gradient"
TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
PACKAGES = ("onnxloss", "torch", "triton", "liger-kernel", "quack-kernels")
RUNS, CHECKED_ROWS = 30, 16

Run = Callable[[], tuple[Any, Any]]
"""Gives the mean loss, and the gradient or None."""


class NoDeviceError(Exception):
    """There is nothing to measure on."""


def load_torch() -> Any:
    """torch with a GPU."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise NoDeviceError("torch is not installed") from None
    if not torch.cuda.is_available():
        raise NoDeviceError("no CUDA device")
    return torch


def ours(torch: Any, logits: Any, labels: Any, work: str) -> Run:
    """The kernels of the installed library, by device pointers."""
    library = ctypes.CDLL(onnxloss.library_path())
    if not hasattr(library, "OnnxLossCudaRun"):
        raise NoDeviceError("the library was built without CUDA: -C cmake.define.ONNXLOSS_CUDA=ON")
    library.OnnxLossCudaRun.restype = ctypes.c_char_p
    library.OnnxLossCudaScratchBytes.restype = ctypes.c_int64
    loss, dloss = torch.empty((), device="cuda"), torch.ones((), device="cuda")
    dlogits = torch.empty_like(logits) if work == BOTH else None
    call = LossCall(
        type=TYPES[str(logits.dtype).removeprefix("torch.")],
        label_kind=1,
        outer=logits.shape[0],
        classes=logits.shape[1],
        inner=1,
        ignore_index=-100,
        from_logits=1,
        reduced=1,
        mean=1,
        logits=logits.data_ptr(),
        labels=labels.data_ptr(),
        dloss=dloss.data_ptr(),
        loss=loss.data_ptr(),
        dlogits=None if dlogits is None else dlogits.data_ptr(),
    )
    size = library.OnnxLossCudaScratchBytes(ctypes.byref(call))
    scratch = torch.empty(size, dtype=torch.uint8, device="cuda")

    def run() -> tuple[Any, Any]:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        address = ctypes.c_void_p(scratch.data_ptr())
        failure = library.OnnxLossCudaRun(ctypes.byref(call), address, stream)
        if failure is not None:
            raise RuntimeError(failure.decode())
        return loss, dlogits

    run.keep = dloss  # type: ignore[attr-defined]  # alive as long as the call is
    return run


def with_autograd(torch: Any, logits: Any, work: str, loss_of: Callable[[Any], Any]) -> Run:
    """A torch loss, with its gradient where that is the work."""
    own = logits.detach().clone().requires_grad_(work == BOTH)

    def run() -> tuple[Any, Any]:
        if work == LOSS:
            with torch.no_grad():
                return loss_of(own), None
        own.grad = None
        loss = loss_of(own)
        loss.backward()
        return loss, own.grad

    return run


def torch_compile(torch: Any, logits: Any, labels: Any, work: str) -> Run:
    """torch.compile of the eager loss, in float32 for 16-bit logits as training does it."""
    function = torch.nn.functional.cross_entropy
    compiled = torch.compile(lambda x: function(x.float(), labels))
    return with_autograd(torch, logits, work, compiled)


def liger(torch: Any, logits: Any, labels: Any, work: str) -> Run:
    """Liger-Kernel's Triton loss, which forms the gradient on the way in place of the logits."""
    module = importlib.import_module("liger_kernel.transformers")
    loss = module.LigerCrossEntropyLoss()
    return with_autograd(torch, logits, work, lambda x: loss(x * 1, labels))


def quack(torch: Any, logits: Any, labels: Any, work: str) -> Run:
    """QuACK's loss."""
    function = importlib.import_module("quack.cross_entropy").cross_entropy
    return with_autograd(torch, logits, work, lambda x: function(x, labels).mean())


PEERS = {"onnxloss": ours, "torch.compile": torch_compile, "Liger": liger, "QuACK": quack}


def check(torch: Any, run: Run, logits: Any, labels: Any, work: str) -> None:
    """Asserts the mean loss and the first rows of the gradient."""
    loss, gradient = run()
    torch.cuda.synchronize()
    losses = [
        torch.nn.functional.cross_entropy(x.double(), y, reduction="none")
        for x, y in zip(logits.split(256), labels.split(256), strict=True)
    ]
    torch.testing.assert_close(loss.double(), torch.cat(losses).mean(), rtol=5e-3, atol=1e-5)
    if work == LOSS:
        return
    x = logits[:CHECKED_ROWS].double().requires_grad_()
    torch.nn.functional.cross_entropy(x, labels[:CHECKED_ROWS], reduction="sum").backward()
    wanted = x.grad / len(labels)
    worst = (gradient[:CHECKED_ROWS].double() - wanted).abs().max() / wanted.abs().max()
    assert worst < 1e-2, f"gradient off by {worst:.2g}"


def seconds(torch: Any, run: Run, flush: Any) -> float:
    """The median time of a run on a cold L2 cache."""
    times = []
    for turn in range(RUNS + 5):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        if turn >= 5:
            times.append(begin.elapsed_time(end) / 1000)
    return median(times)


def copy_bandwidth(torch: Any, flush: Any) -> float:
    """Bytes per second, read and written, of a copy of 4 GB."""
    source = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(torch, lambda: (target.copy_(source), None), flush)


def measure(torch: Any, rows: int, classes: int, dtype: str, bandwidth: float, flush: Any) -> str:
    """The lines of one shape."""
    torch.manual_seed(classes)
    logits = 3 * torch.randn(rows, classes, device="cuda").to(getattr(torch, dtype))
    labels = torch.randint(0, classes, (rows,), device="cuda")
    lines = []
    for work in (LOSS, BOTH):
        moved = logits.numel() * logits.element_size() * (1 if work == LOSS else 2)
        for name, make in PEERS.items():
            try:
                run = make(torch, logits, labels, work)
                check(torch, run, logits, labels, work)
                taken = seconds(torch, run, flush)
                cells = f"{1000 * taken:.3f} | {moved / taken / bandwidth:.2f}"
            except (ImportError, AssertionError, RuntimeError) as error:
                cells = f"{type(error).__name__}: {str(error).splitlines()[0][:60]} | "
            lines.append(f"| {rows} x {classes} | {dtype} | {work} | {name} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def versions(torch: Any) -> str:
    """GPU, driver and packages."""
    found = [f"{torch.cuda.get_device_name()}", f"CUDA {torch.version.cuda}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def main() -> int:
    """Measures, or says why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", action="store_true", help="say what there is, and stop")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    try:
        torch = load_torch()
    except NoDeviceError as reason:
        print(f"bench_cuda: {reason}", file=sys.stderr)
        return 1
    print(versions(torch))
    if options.device:
        return 0
    flush = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    bandwidth = copy_bandwidth(torch, flush)
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    head = (
        "| rows x classes | dtype | work | implementation | ms | of copy |\n" + "| --- " * 6 + "|"
    )
    parts = [
        measure(torch, rows, classes, dtype, bandwidth, flush)
        for classes in CLASSES
        for rows in ROWS
        for dtype in DTYPES
        if rows * classes * 4 <= MOST_BYTES
    ]
    if options.markdown is not None:
        text = (
            "# Benchmarks on a GPU\n\n`make bench-gpu` wrote this page.\n\n"
            f"{versions(torch)}; copy bandwidth {bandwidth / 1e12:.2f} TB/s.\n\n"
        )
        options.markdown.write_text(text + "\n".join([head, *parts]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
