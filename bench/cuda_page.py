# SPDX-License-Identifier: MIT
"""The page that bench_cuda.py writes of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cuda_losses import BYTES, IMPLEMENTATIONS, SETTINGS, WORKS, Work


@dataclass(frozen=True)
class Result:
    """One cell: a time in ms, or why there is none."""

    rows: int
    classes: int
    dtype: str
    setting: str
    work: str
    inner: int
    implementation: str
    ms: float | None
    of_copy: float | None
    note: str

    def key(self) -> tuple[Any, ...]:
        """What tells it from others: a work's, and who did it."""
        return (*self.shape(), self.setting, self.work, self.implementation)

    def shape(self) -> tuple[int, int, int, str]:
        """The logits."""
        return self.rows, self.classes, self.inner, self.dtype


def cell(result: Result | None) -> str:
    """A time and its share of the copy bandwidth, or why there is none."""
    if result is None:
        return "not measured"
    if result.ms is None:
        return result.note
    return f"{result.ms:.3f} ({result.of_copy:.2f})"


def text_of(shape: tuple[int, int, int, str]) -> str:
    """As the tables have it, but for the dtype."""
    rows, classes, inner, _ = shape
    return f"{rows} x {classes}" + (f" x {inner}" if inner > 1 else "")


def table(results: Mapping[tuple[Any, ...], Result], dtype: str) -> list[str]:
    """All shapes of one dtype."""
    shapes = sorted(
        {result.shape() for result in results.values() if result.dtype == dtype},
        key=lambda shape: (shape[2] > 1, shape[1], shape[0]),
    )
    lines = [f"| {dtype}: rows x classes | work | " + " | ".join(IMPLEMENTATIONS) + " |"]
    lines.append("| --- " * (2 + len(IMPLEMENTATIONS)) + "|")
    for shape in shapes:
        for work in WORKS:
            cells = [cell(results.get((*shape, "plain", work, name))) for name in IMPLEMENTATIONS]
            lines.append(f"| {text_of(shape)} | {work} | " + " | ".join(cells) + " |")
    return lines


def settings_table(results: Mapping[tuple[Any, ...], Result]) -> list[str]:
    """The settings, with onnxloss's time as a multiple of the plain one's."""
    found = {result.shape() for result in results.values() if result.setting != "plain"}
    lines = ["| setting | work | of plain | bytes of plain | " + " | ".join(IMPLEMENTATIONS) + " |"]
    lines.append("| --- " * (4 + len(IMPLEMENTATIONS)) + "|")
    for shape in sorted(found):
        for setting in SETTINGS:
            for work in WORKS:
                plain = results.get((*shape, "plain", work, "onnxloss"))
                own = results.get((*shape, setting, work, "onnxloss"))
                if plain is None or own is None or plain.ms is None or own.ms is None:
                    ratio = "-"
                else:
                    ratio = f"{own.ms / plain.ms:.2f}"
                rows, classes, inner, dtype = shape
                bytes_of = [
                    Work(rows, classes, dtype, s, work, inner).bytes_moved()
                    for s in (setting, "plain")
                ]
                cells = [
                    cell(results.get((*shape, setting, work, name))) for name in IMPLEMENTATIONS
                ]
                lines.append(
                    f"| {setting}, {text_of(shape)} {dtype} | {work} | {ratio} | "
                    f"{bytes_of[0] / bytes_of[1]:.2f} | " + " | ".join(cells) + " |"
                )
    return lines


def ahead(results: Mapping[tuple[Any, ...], Result]) -> str:
    """At how many points of the tables onnxloss is the fastest, and where it is not."""
    own = [
        result
        for result in results.values()
        if result.implementation == "onnxloss" and result.setting == "plain" and result.ms
    ]
    behind = []
    for result in own:
        peers = [results.get((*result.key()[:-1], name)) for name in IMPLEMENTATIONS]
        best = min((peer for peer in peers if peer and peer.ms), key=lambda peer: peer.ms or 0)
        if best is not result:
            shape = f"{text_of(result.shape())} {result.dtype}"
            behind.append(f"{best.implementation} at {shape}, {result.work}")
    text = f"onnxloss is the fastest at {len(own) - len(behind)} of {len(own)} points."
    return text + (f" Faster: {'; '.join(behind)}." if behind else "")


def page(results: Mapping[tuple[Any, ...], Result], heads: list[str]) -> str:
    """The Markdown page of all results."""
    dtypes = [d for d in BYTES if any(result.dtype == d for result in results.values())]
    parts = [
        "# Benchmarks on a GPU",
        "Milliseconds, and in brackets the share of the copy bandwidth of the same run at which "
        "each input would be read once and each output written once. Each result was compared with "
        "float64 first; what is wrong or not there has no time. Where a third number follows rows "
        "and classes, the class axis is not the last, as in segmentation. PyTorch computes in "
        "float32 where logits have 16 bits; torch.compile has its turn after the others, but at "
        "the most important shape and in float16; Liger-Kernel writes the gradient over the "
        'logits; "QuACK, one pass" gives the gradient of the sum.',
        *heads,
        *("\n".join(table(results, dtype)) for dtype in dtypes),
        ahead(results),
        "## Settings",
        "`of plain` is the time of onnxloss as a multiple of its plain one; beside it stands how "
        "much the bytes grow.",
        "\n".join(settings_table(results)),
    ]
    return "\n\n".join(parts) + "\n"
