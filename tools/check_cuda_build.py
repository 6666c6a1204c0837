# SPDX-License-Identifier: MIT
"""Reads what ptxas reported of a build of the CUDA kernels, and fails where a hot kernel spills.

    python tools/check_cuda_build.py build.log libonnxloss.so

`make cuda-compile` calls it. A spill moves registers to memory in the middle of a row.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# Bytes that a thread may spill. The rows of index labels without smoothing are what language
# models train with; dense coefficients take more registers, and the widest residence has no more.
HOT = re.compile(r"(Resident|Streamed)Rows<.*SoftmaxCrossEntropyLossRow<(float|double), false>")
MOST_HOT, MOST_OTHER = 16, 256
MOST_LIBRARY_BYTES = 15_000_000

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<target>\w+)'"
    r".*?(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def main(log: str, library: str) -> int:
    """Prints a line for each target, and each fault; 1 where there is any."""
    kernels = list(_KERNEL.finditer(Path(log).read_text()))
    names = "\n".join(kernel["name"] for kernel in kernels)
    demangled = subprocess.run(
        ["c++filt"], input=names, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    faults = [] if kernels else [f"{log} has no report of ptxas"]
    per_target = defaultdict(list)
    for kernel, name in zip(kernels, demangled, strict=True):
        spilled = int(kernel["spilled"])
        per_target[kernel["target"]].append(spilled)
        most = MOST_HOT if HOT.search(name) else MOST_OTHER
        if spilled > most:
            short = name.replace("onnxloss::cuda::", "").split("(Arguments)")[0]
            faults.append(f"{kernel['target']}: {short} spills {spilled} bytes; at most {most}")
    for target, spills in sorted(per_target.items()):
        some = sum(spilled > 0 for spilled in spills)
        print(f"{target}: {len(spills)} kernels, {some} spill, at most {max(spills)} bytes")
    size = Path(library).stat().st_size
    print(f"{library}: {size / 1e6:.1f} MB")
    if size > MOST_LIBRARY_BYTES:
        faults.append(f"{library} has {size} bytes; at most {MOST_LIBRARY_BYTES}")
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
