# SPDX-License-Identifier: MIT
"""Times the CUDA kernels on a GPU beside PyTorch, torch.compile, Liger-Kernel and QuACK.

    python -m bench.bench_cuda --minutes 8 --results gpu.json --markdown docs/benchmarks_gpu.md

Every result is compared with float64 before it is timed; one that is wrong is not. Those of one
shape take turns, each on a cold L2 cache and by CUDA events, and the table has the medians. Beside
each time stands its share of the copy bandwidth of the same run, were each input read once and each
output written once. A run that its minutes end keeps what it has in `--results`; the next call with
the same file goes on from there.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib
import importlib.metadata
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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
# ImageNet's classes. What matters most comes first: time may end.
CLASSES = (128256, 32000, 50257, 151936, 262144, 1000)
ROWS = (8192, 2048, 32768, 512)
MAIN = (8192, 128256)
MOST_BYTES = 12 << 30  # of the logits: there are up to ten arrays of their size
PACKAGES = ("onnxloss", "torch", "triton", "liger-kernel", "quack-kernels")
WARM_UPS = 3

Clock = Callable[[Run], float]
"""The seconds of one run."""


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
        self._flushed = self.torch.empty(2 << 30, dtype=self.torch.uint8, device="cuda")

    def stream(self) -> ctypes.c_void_p:
        """The stream of torch's kernels."""
        return ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)

    def seconds(self, run: Run) -> float:
        """The time of a run on a cold L2 cache."""
        event = self.torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        self._flushed.zero_()
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

        times, _ = medians({"copy": copy}, self.seconds, repeats)
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
        return f"{name}, driver {driver.split()[0]}, CUDA {self.torch.version.cuda}"


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
    runs: Mapping[str, Run], clock: Clock, repeats: int
) -> tuple[dict[str, float], dict[str, str]]:
    """The median seconds of each, all in turn, after a few that do not count; and what failed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    faults: dict[str, str] = {}
    for turn in range(WARM_UPS + repeats):
        for name in [name for name in runs if name not in faults]:
            try:
                taken = clock(runs[name])
            except Exception as error:  # out of memory, beside the others' arrays
                faults[name] = text_of(error)
                continue
            if turn >= WARM_UPS:
                times[name].append(taken)
    done = {name: median(times[name]) for name in runs if name not in faults}
    return done, faults


def text_of(error: Exception) -> str:
    """As a cell of a table has it."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"


def prepare(machine: Gpu | Emulator, problem: Problem) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs that are right, and why the others are not there."""
    runs, notes = {}, {}
    for name, make in IMPLEMENTATIONS.items():
        try:
            run = make(problem, machine)
            fault = fault_of(run, problem)
        except UnavailableError as reason:
            fault = str(reason)
        except Exception as error:  # a peer may fail in any way, and is then none
            fault = text_of(error)
            machine.release()
        if fault is None:
            runs[name] = run
        else:
            notes[name] = fault
    return runs, notes


def measure(machine: Gpu | Emulator, work: Work, bandwidth: float, repeats: int) -> list[Result]:
    """The results of one work."""
    problem = make_problem(machine.torch, machine.device, work)
    runs, notes = prepare(machine, problem)
    times, faults = medians(runs, machine.seconds, repeats)
    notes |= faults
    results = []
    for name in IMPLEMENTATIONS:
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


def works(options: argparse.Namespace) -> list[Work]:
    """What is to be measured, in the order of how much it matters."""
    shapes = [(rows, classes) for rows in options.rows for classes in options.classes]
    main = MAIN if MAIN in shapes else shapes[0]

    def all_of(shape: tuple[int, int], dtype: str, setting: str) -> list[Work]:
        fits = shape[0] * shape[1] * BYTES[dtype] <= MOST_BYTES
        return [Work(*shape, dtype, setting, work) for work in WORKS if fits]

    dtype, *others = options.dtypes
    wanted = all_of(main, dtype, "plain")
    for setting in options.settings:
        wanted += all_of(main, dtype, setting)
    for each in (dtype, *others):
        for shape in shapes:
            wanted += all_of(shape, each, "plain")
    return list(dict.fromkeys(wanted))


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
    parser.add_argument("--minutes", type=float, default=8, help="begin nothing new after so many")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--dtypes", nargs="+", default=tuple(BYTES), choices=tuple(BYTES))
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--results", type=Path, help="keep results here, and go on from them")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--device", action="store_true", help="say what there is, and stop")
    parser.add_argument("--emulate", action="store_true", help="run without a GPU, for the tests")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measures, or says why not; 1 where onnxloss itself has no right result."""
    end = time.monotonic()
    options = parse(arguments)
    end += 60 * options.minutes
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
    left = []
    for work in works(options):
        key = (work.rows, work.classes, work.dtype, work.setting, work.work)
        if any(done[:5] == key for done in results):
            continue
        if time.monotonic() > end:
            left.append(work)
            continue
        for result in measure(machine, work, bandwidth, options.repeats):
            results[result.key()] = result
            print(*key, f"{result.implementation}: {cell(result)}", sep=", ", flush=True)
        machine.release()
        write(options, results, heads)
    write(options, results, heads)
    if left:
        print(
            f"{len(left)} of {len(works(options))} left when the {options.minutes:g} minutes ended"
        )
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
