# SPDX-License-Identifier: MIT
"""Times the CUDA kernels on a GPU beside PyTorch, torch.compile, Liger-Kernel and QuACK.

    python -m bench.bench_cuda --minutes 8 --results gpu.json --markdown docs/benchmarks_gpu.md

Every result is compared with float64 before it is timed; one that is wrong is not. Those of one
shape take turns, each on a cold L2 cache and by CUDA events, and the table has the medians; what
compiles for seconds has its turn later, but at the most important shape. Beside each time stands
its share of the copy bandwidth of the same run, were each input read once and each output written
once. What is not expected to end within the minutes is not begun; they count from the start, or
from $GPU_BEGAN, in seconds as `date +%s` has them. Results are kept in `--results`, and the next
call with the same file goes on from there.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.cuda_losses import (
    BYTES,
    IMPLEMENTATIONS,
    SETTINGS,
    WORKS,
    Problem,
    Run,
    UnavailableError,
    Work,
    fault_of,
    make_problem,
)
from bench.cuda_page import Result, cell, page
from tests import cuda_on_host

# Rows of real vocabularies: Llama 3, Llama 2, GPT-2 (no multiple of a vector), Qwen 2.5, Gemma; and
# ImageNet's classes. What matters most comes first, as among the dtypes: time may end.
CLASSES = (128256, 32000, 50257, 151936, 262144, 1000)
ROWS = (8192, 2048, 32768, 512)
MAIN = (8192, 128256)
DTYPES = ("bfloat16", "float32", "float16")
# Segmentation: Pascal VOC, also with the class axis last, as Keras has it, ADE20K, Cityscapes; and
# tokens with the class axis where PyTorch has it.
SEGMENTATION = ("32x21x262144", "8388608x21x1", "16x150x262144", "8x19x2097152", "4x32000x2048")
SLOW = ("torch.compile",)  # seconds of compilation for each work
MOST_BYTES = 12 << 30  # of the logits: there are up to ten arrays of their size
PACKAGES = ("onnxloss", "torch", "triton", "liger-kernel", "quack-kernels")
WARM_UPS = 3


class NoDeviceError(Exception):
    """There is nothing to measure on."""


class Gpu:
    """A GPU, as torch has it."""

    device = "cuda"

    def __init__(self) -> None:
        try:
            self.torch = importlib.import_module("torch")
        except ImportError:
            raise NoDeviceError("torch is not installed") from None
        if not self.torch.cuda.is_available():
            raise NoDeviceError("no CUDA device")
        onnxloss = importlib.import_module("onnxloss")
        functions = ctypes.CDLL(onnxloss.library_path())
        if not hasattr(functions, "OnnxLossCudaRun"):
            raise NoDeviceError("the library was built without CUDA: make bench-gpu builds it")
        self.functions = cuda_on_host.declared(functions)
        # As large as hides what the host does to start a run.
        self._flushed = self.torch.empty(1 << 29, dtype=self.torch.float32, device="cuda")
        self._read = self._flushed[: 1 << 27]
        self._sum = self.torch.empty((), dtype=self.torch.float32, device="cuda")

    def stream(self) -> ctypes.c_void_p:
        """The stream of torch's kernels."""
        return ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)

    def seconds(self, run: Run) -> float:
        """The time of a run on a cold L2 cache."""
        event = self.torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        self._flushed.zero_()
        # The cache is full of its end, which the run would pay to have written back. Its begin,
        # read to several times a cache, takes that place as it is.
        self.torch.sum(self._read, 0, out=self._sum)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    def copy_bandwidth(self, repeats: int) -> float:
        """Bytes per second, read and written, of a copy of 4 GB."""
        source = self.torch.empty(4 << 30, dtype=self.torch.uint8, device="cuda")
        target = self.torch.empty_like(source)

        def copy() -> tuple[Any, None]:
            return target.copy_(source), None

        times, _ = medians(self, {"copy": copy}, repeats)
        return 2 * source.numel() / times["copy"]

    def release(self) -> None:
        """Gives back what no one holds."""
        gc.collect()
        self.torch.cuda.empty_cache()

    def name(self) -> str:
        """GPU, driver and CUDA."""
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            driver = "unknown"
        name = self.torch.cuda.get_device_name()
        clusters = cuda_on_host.largest_cluster(self.functions)
        return (
            f"{name}, driver {driver.split()[0]}, CUDA {self.torch.version.cuda}, "
            f"clusters of at most {clusters} blocks"
        )


class Emulator:
    """The kernels' host build on tiny shapes: shows that the benchmark runs, and no more."""

    device = "cpu"

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.functions = cuda_on_host.library()

    def stream(self) -> ctypes.c_void_p:
        """None."""
        return ctypes.c_void_p(None)

    def seconds(self, run: Run) -> float:
        """The time of a run on the host."""
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    def copy_bandwidth(self, _repeats: int) -> float:
        """Any number."""
        return 1e9

    def release(self) -> None:
        """Nothing to give back."""

    def name(self) -> str:
        """What it is not."""
        return "no GPU: kernels emulated on the CPU, whose times say nothing"


def medians(
    machine: Gpu | Emulator, runs: dict[str, Run], repeats: int
) -> tuple[dict[str, float], dict[str, str]]:
    """The median seconds of each, all in turn, after a few that do not count; and what failed.

    What failed leaves `runs`, with its memory.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    faults: dict[str, str] = {}
    for turn in range(WARM_UPS + repeats):
        for name in list(runs):
            try:
                taken = machine.seconds(runs[name])
            except Exception as error:  # out of memory, beside the others' arrays
                faults[name] = text_of(error)
            if name in faults:
                del runs[name]
                machine.release()
            elif turn >= WARM_UPS:
                times[name].append(taken)
    return {name: median(times[name]) for name in runs}, faults


def text_of(error: Exception) -> str:
    """As a cell of a table has it."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"


def prepare(
    machine: Gpu | Emulator, problem: Problem, names: Collection[str]
) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs that are right, and why the others are not there."""
    runs: dict[str, Run] = {}
    notes: dict[str, str] = {}
    for name in names:
        try:
            runs[name] = IMPLEMENTATIONS[name](problem, machine)
            fault = fault_of(runs[name], problem)
        except UnavailableError as reason:
            notes[name] = str(reason)
            continue
        except Exception as error:  # a peer may fail in any way, and is then none
            fault = text_of(error)
        if fault is not None:
            notes[name] = fault
            runs.pop(name, None)
            machine.release()
    return runs, notes


def measure(
    machine: Gpu | Emulator, work: Work, names: Collection[str], bandwidth: float, repeats: int
) -> list[Result]:
    """The results of one work."""
    problem = make_problem(machine.torch, machine.device, work)
    runs, notes = prepare(machine, problem, names)
    times, faults = medians(machine, runs, repeats)
    notes |= faults
    results = []
    for name in names:
        ms = of_copy = None
        if name in times:
            ms = 1000 * times[name]
            of_copy = work.bytes_moved() / times[name] / bandwidth
        results.append(
            Result(
                **asdict(work),
                implementation=name,
                ms=ms,
                of_copy=of_copy,
                note=notes.get(name, ""),
            )
        )
    return results


def works(options: argparse.Namespace) -> list[tuple[Work, tuple[str, ...]]]:
    """What is to be measured, and of whom, in the order of how much it matters."""
    shapes = [(rows, classes, 1) for rows in options.rows for classes in options.classes]
    main = (*MAIN, 1) if (*MAIN, 1) in shapes else shapes[0]
    planes = [tuple(map(int, text.split("x"))) for text in options.segmentation]

    def all_of(shape: tuple[int, ...], dtype: str, setting: str = "plain") -> list[Work]:
        rows, classes, inner = shape
        made = [Work(rows, classes, dtype, setting, work, inner) for work in WORKS]
        return [work for work in made if work.elements() * BYTES[dtype] <= MOST_BYTES]

    dtype, *others = options.dtypes
    first = all_of(main, dtype)
    then = [work for each in options.dtypes[:2] for shape in shapes for work in all_of(shape, each)]
    then += [work for setting in options.settings for work in all_of(main, dtype, setting)]
    then += [work for shape in planes for work in all_of(shape, dtype)]
    then = [work for work in dict.fromkeys(then) if work not in first]
    last = [work for each in others[1:] for shape in shapes for work in all_of(shape, each)]
    everyone = tuple(IMPLEMENTATIONS)
    slow = tuple(name for name in everyone if name in SLOW)
    quick = tuple(name for name in everyone if name not in SLOW)
    return [
        *((work, everyone) for work in first),
        *((work, quick) for work in then),
        *((work, slow) for work in then if slow),
        *((work, everyone) for work in last),
    ]


def expected(work: Work, names: Collection[str], spent: list[tuple[Any, ...]]) -> float:
    """Seconds that a work may take, by those of the works before; 0 before there is one.

    Twice the least of what is above it, were all works alike: the time of one of as many elements,
    or that of a smaller one for as many of it.
    """
    above = [
        seconds * max(1, work.elements() / done.elements())
        for done, by, seconds in spent
        if set(names) <= set(by)
    ]
    return 2 * min(above, default=0)


def head(machine: Gpu | Emulator, bandwidth: float, arguments: list[str]) -> str:
    """What the numbers of one call depend on."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    day = datetime.datetime.now(datetime.timezone.utc).date()
    command = shlex.join(["python", "-m", "bench.bench_cuda", *arguments])
    return (
        f"{day}: {machine.name()}; {', '.join(versions)}; copy bandwidth "
        f"{bandwidth / 1e12:.2f} TB/s. `{command}`"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench_cuda", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="end within so many")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--segmentation", nargs="*", default=SEGMENTATION, metavar="NxCxD")
    parser.add_argument("--results", type=Path, help="keep results here, and go on from them")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--device", action="store_true", help="say what there is, and stop")
    parser.add_argument("--emulate", action="store_true", help="run without a GPU, for the tests")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measures, or says why not; 1 where onnxloss itself has no right result."""
    began = float(os.environ.get("GPU_BEGAN") or time.time())
    options = parse(arguments)
    end = began + 60 * options.minutes
    try:
        machine = Emulator() if options.emulate else Gpu()
    except NoDeviceError as reason:
        print(f"bench_cuda: {reason}", file=sys.stderr)
        return 1
    if options.device:
        print(machine.name())
        return 0
    bandwidth = machine.copy_bandwidth(options.repeats)
    kept: dict[str, Any] = {"heads": [], "results": []}
    if options.results is not None and options.results.exists():
        kept = json.loads(options.results.read_text())
    heads = [*kept["heads"], head(machine, bandwidth, arguments)]
    print(heads[-1], flush=True)
    results = {found.key(): found for found in (Result(**row) for row in kept["results"])}
    left = 0
    spent: list[tuple[Any, ...]] = []
    wanted = works(options)
    for work, everyone in wanted:
        names = [name for name in everyone if (*work.key(), name) not in results]
        if not names:
            continue
        begin = time.time()
        if begin + expected(work, names, spent) >= end:
            left += 1
            continue
        for result in measure(machine, work, names, bandwidth, options.repeats):
            results[result.key()] = result
            print(*work.key(), f"{result.implementation}: {cell(result)}", sep=", ", flush=True)
        machine.release()
        write(options, results, heads)
        spent.append((work, names, time.time() - begin))
    write(options, results, heads)
    if left:
        print(f"{left} of {len(wanted)} did not fit into the {options.minutes:g} minutes")
    own = [result for result in results.values() if result.implementation == "onnxloss"]
    return int(any(result.ms is None for result in own))


def write(
    options: argparse.Namespace, results: Mapping[tuple[Any, ...], Result], heads: list[str]
) -> None:
    """Keeps what there is."""
    if options.results is not None:
        rows = [asdict(result) for result in results.values()]
        options.results.write_text(json.dumps({"heads": heads, "results": rows}, indent=1))
    if options.markdown is not None:
        options.markdown.write_text(page(results, heads))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
