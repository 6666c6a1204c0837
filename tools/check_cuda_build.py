# SPDX-License-Identifier: MIT
"""Reads what ptxas reported of a build of the CUDA kernels, and what it made: their SASS.

    python tools/check_cuda_build.py build.log libonnxloss.so

`make cuda-compile` calls it. It fails where a hot kernel needs more than registers: a spill moves a
row to memory and back. The SASS shows what the sources leave open: that rows move 16 bytes at a
time, each as often as it must, and that ops/cuda/device.h leaves no call behind. For that it needs
cuobjdump and nvdisasm, which are also on PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm. It
fails, too, where a wheel with the library would become too large.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

MOST_WHEEL_BYTES = 15_000_000

# Stack bytes of a thread of the other kernels.
MOST_OTHER = 64
# Instructions of a thread for each element of a row of bfloat16 of which it keeps 8 vectors: above
# what they are by a little, so that a change that adds many is seen.
MOST_INSTRUCTIONS = {"index": 23, "smoothed index": 30, "probabilities": 44}
# Subroutines of CUDA's own division, for operands that its short path leaves out: a row divides a
# few times, its elements never.
MOST_CALLS = 16

_PLAN = Path(__file__).parents[1] / "ops" / "cuda" / "plan.h"
_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<target>\w+)'"
    r".*?(?P<stack>\d+) bytes stack frame, \d+ bytes spill stores"
    r".*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)
_HOT = re.compile(
    r"(Resident|Streamed)Rows<(\w+), (SoftmaxCrossEntropyLossRow<\w+, \w+>"
    r"|SoftLabelCrossEntropyLossRow<\w+>), \D*(\d)>"
)
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")


class Instruction(NamedTuple):
    """A line of SASS."""

    address: int
    conditional: bool
    op: str
    operands: str

    @classmethod
    def all_of(cls, text: str) -> list[Instruction]:
        """Those of a kernel."""
        return [
            cls(int(address, 16), bool(predicate), op, operands)
            for address, predicate, op, operands in _INSTRUCTION.findall(text)
        ]


class Rows(NamedTuple):
    """A kernel whose rows are to stay in registers."""

    kind: str
    has_probabilities: bool
    vectors: int
    weights: int  # vectors of class weights for each of the row's

    def loads(self) -> int:
        """16-byte loads in its code: of each row's, once.

        Where it is streamed, its first vectors, further ones, and once more for the gradient. Class
        weights are loaded for the sum, and again for the gradient.
        """
        times = 3 if self.kind == "Streamed" else 1
        return self.vectors * (times * (1 + self.has_probabilities) + 2 * self.weights)

    def stores(self) -> int:
        """16-byte stores in its code: the gradient's; and of a row that does not count, zeros."""
        return self.vectors + (0 if self.has_probabilities else 1)


def short_name(name: str) -> str:
    """A demangled name without what all have."""
    return name.replace("onnxloss::cuda::", "").removeprefix("void ").split("(Arguments)")[0]


@cache
def hot_rows(name: str) -> Rows | None:
    """What a hot kernel is by its short name; None for the others.

    Those with a softcap compute more than they move.
    """
    found = _HOT.match(name)
    if found is None:
        return None
    kind, element, row, number = found[1], found[2], found[3], int(found[4])
    soft = row.startswith("SoftLabel")
    weights = 2 if element in ("Half", "BFloat16") else 1
    if not soft and row.endswith("false>"):
        weights = 0
    plan = _PLAN.read_text()
    if kind == "Streamed":
        vectors = re.findall(r"kStreamedVectors = (\d+)", plan)[0]
        return None if number else Rows(kind, soft, int(vectors), weights)
    table = re.findall(r"\{(\d+), (\d+), (\d+), (\d+)\}", plan)
    return Rows(kind, soft, int(table[number][1]), weights)


def demangled(names: list[str]) -> list[str]:
    """The short name of each."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return [short_name(name) for name in text.splitlines()]


def check_registers(log: str) -> tuple[list[str], list[str]]:
    """Targets and faults, by ptxas's report."""
    kernels = list(_KERNEL.finditer(log))
    faults = [] if kernels else ["the log has no report of ptxas"]
    stacks = defaultdict(list)
    for kernel, name in zip(kernels, demangled([k["name"] for k in kernels]), strict=True):
        stack, most = int(kernel["stack"]), 0 if hot_rows(name) else MOST_OTHER
        stacks[kernel["target"]].append((stack, hot_rows(name) is not None))
        if stack > most:
            faults.append(
                f"{kernel['target']}: {name} has a stack of {stack} bytes; at most {most}"
            )
    for target, found in sorted(stacks.items()):
        hot = sum(is_hot for _, is_hot in found)
        some = sum(stack > 0 for stack, _ in found)
        print(
            f"{target}: {len(found)} kernels; {some} use a stack, of {max(found)[0]} bytes at most,"
            f" {sum(stack > 0 for stack, is_hot in found if is_hot)} of the {hot} hot ones"
        )
    return sorted(stacks), faults


def find_disassembler() -> dict[str, str] | None:
    """The environment in which cuobjdump finds nvdisasm; None where they are not."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    path = os.pathsep.join([os.environ["PATH"], *map(str, packages.glob("*/bin"))])
    if all(shutil.which(tool, path=path) for tool in ("cuobjdump", "nvdisasm")):
        return {**os.environ, "PATH": path}
    return None


def instructions(
    library: str, target: str, environment: dict[str, str]
) -> Iterator[tuple[str, list[Instruction]]]:
    """Of each kernel its mangled name, and its code."""
    command = ["cuobjdump", "-arch", target, "-sass", library]
    # By the PATH that is given: Python would look in its own.
    executable = shutil.which("cuobjdump", path=environment["PATH"])
    text = subprocess.run(
        command, executable=executable, env=environment, capture_output=True, text=True, check=True
    ).stdout
    for kernel in text.split("Function : ")[1:]:
        name, _, body = kernel.partition("\n")
        yield name.strip(), Instruction.all_of(body)


def check_instructions(name: str, rows: Rows, found: Counter[str]) -> Iterator[str]:
    """The faults of a hot kernel."""

    def count(start: str, part: str = "") -> int:
        return sum(n for op, n in found.items() if op.startswith(start) and part in op)

    if count("LDL") or count("STL"):
        yield f"{name} uses local memory {count('LDL') + count('STL')} times"
    subroutines = count("CALL.REL.NOINC")
    if count("CALL") > subroutines:
        yield f"{name} calls {count('CALL') - subroutines} functions"
    if subroutines > MOST_CALLS:
        yield f"{name} calls subroutines {subroutines} times; at most {MOST_CALLS}"
    for what, wide, wanted in (
        ("loads", count("LDG", ".128"), rows.loads()),
        ("stores", count("STG", ".128"), rows.stores()),
    ):
        if wide != wanted:
            yield f"{name} has {wide} {what} of 16 bytes; expected {wanted}"


def fewest(code: list[Instruction]) -> int | None:
    """The instructions that a thread executes at least, if it leaves no vector out.

    On such a way it moves as many vectors, and takes as many exponentials, as on any. Loops are
    gone through once. None where no way leads to an end.
    """
    place = {instruction.address: i for i, instruction in enumerate(code)}
    # Of each instruction on: what counts, and instructions as a negative number.
    best: list[tuple[int, int] | None] = [None] * len(code)
    for i in reversed(range(len(code))):
        _, conditional, op, operands = code[i]
        if op.startswith("EXIT") and not conditional:
            best[i] = (0, -1)
            continue
        follows = [i + 1]
        target = re.search(r"0x([0-9a-f]+)", operands) if op.startswith("BRA") else None
        if target is not None:
            to = place.get(int(target[1], 16), 0)
            # A branch may have its condition among its operands.
            goes_on = conditional or to <= i or re.search(r"U?P\d", operands) is not None
            follows = [i + 1] * goes_on + [to] * (to > i)
        ways = [way for to in follows if to < len(code) and (way := best[to]) is not None]
        if ways:
            work, steps = max(ways)
            best[i] = (work + (".EF.128" in op or op == "MUFU.EX2"), steps - 1)
    return None if not best or best[0] is None else -best[0][1]


def check_pace(name: str, rows: Rows, code: list[Instruction]) -> Iterator[str]:
    """Prints a kernel's instructions for each element; its fault where they are too many."""
    kind = "index" if rows.weights == 0 else "smoothed index"
    if rows.has_probabilities:
        kind = "probabilities"
    count = fewest(code)
    if count is None:
        yield f"{name} has no way from its entry to an end"
        return
    pace = count / (rows.vectors * 8)
    print(f"  {pace:.1f} instructions an element: {name}")
    if pace > MOST_INSTRUCTIONS[kind]:
        yield f"{name} takes {pace:.1f} instructions an element; at most {MOST_INSTRUCTIONS[kind]}"


def check_sass(library: str, targets: list[str]) -> list[str]:
    """Faults by the SASS of each target."""
    environment = find_disassembler()
    if environment is None:
        print("cuobjdump and nvdisasm not found: the SASS was not looked at")
        return []
    faults = []
    for target in targets:
        kernels = list(instructions(library, target, environment))
        names = demangled([name for name, _ in kernels])
        hot = [
            (name, rows, code)
            for name, (_, code) in zip(names, kernels, strict=True)
            if (rows := hot_rows(name)) is not None
        ]
        print(f"{target}: the SASS of {len(hot)} hot kernels of {len(kernels)}")
        for name, rows, code in hot:
            own = list(check_instructions(name, rows, Counter(each.op for each in code)))
            if name.startswith("ResidentRows<BFloat16") and rows.vectors == 8:
                own += check_pace(name, rows, code)
            faults += [f"{target}: {fault}" for fault in own]
        if not hot:
            faults.append(f"{target}: {library} has no hot kernel")
    return faults


def main(log: str, library: str) -> int:
    """Prints what there is of each target, and each fault; 1 where there is any."""
    targets, faults = check_registers(Path(log).read_text())
    faults += check_sass(library, targets)
    content = Path(library).read_bytes()
    packed = len(zlib.compress(content))
    print(f"{library}: {len(content) / 1e6:.1f} MB, {packed / 1e6:.1f} MB of a wheel")
    if packed > MOST_WHEEL_BYTES:
        faults.append(f"{library} takes {packed} bytes of a wheel; at most {MOST_WHEEL_BYTES}")
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
