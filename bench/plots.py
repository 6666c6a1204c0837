# SPDX-License-Identifier: MIT
"""Draws the tables of docs/benchmarks.md: `python -m bench.plots`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOCS = Path(__file__).parent.parent / "docs"
SERIES = ("loss, ms", "loss + gradient, ms")
COLOURS = ("#3f51b5", "#c2185b")


@dataclass(frozen=True)
class Table:
    """One table: its heading, and a time for each implementation and series, where there is one."""

    title: str
    rows: dict[str, tuple[float | None, ...]]


def main() -> None:
    """Writes one picture for each number of threads."""
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "onnxloss", "svg.fonttype": "none"})
    tables = read((DOCS / "benchmarks.md").read_text())
    for threads in sorted({table.title.rpartition(", ")[2] for table in tables}):
        chosen = [table for table in tables if table.title.endswith(f", {threads}")]
        target = DOCS / "images" / f"benchmarks-{threads.replace(' ', '-')}.svg"
        draw(chosen).savefig(target, metadata={"Date": None})
        print(target)


def read(text: str) -> list[Table]:
    """The tables of a page that the benchmark wrote, which have the columns of `SERIES`."""
    tables = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        lines = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line] for line in lines]
        if cells and set(SERIES) <= set(cells[0]):
            columns = [cells[0].index(name) for name in SERIES]
            rows = {row[0]: tuple(_time(row[column]) for column in columns) for row in cells[2:]}
            tables.append(Table(title.strip(), rows))
    return tables


def draw(tables: list[Table]) -> Figure:
    """Bars for each table, one under the other."""
    height = sum(0.6 + 0.5 * len(table.rows) for table in tables)
    figure = Figure(figsize=(8, height), layout="constrained")
    ratios = [1 + len(table.rows) for table in tables]
    for axes, table in zip(
        figure.subplots(len(tables), squeeze=False, height_ratios=ratios)[:, 0], tables, strict=True
    ):
        _draw_table(axes, table)
    figure.axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    figure.axes[-1].set_xlabel("milliseconds")
    return figure


def _draw_table(axes: Axes, table: Table) -> None:
    for index, (name, colour) in enumerate(zip(SERIES, COLOURS, strict=True)):
        places = [row + 0.38 * index for row in range(len(table.rows))]
        times = [row[index] or float("nan") for row in table.rows.values()]
        bars = axes.barh(places, times, 0.36, label=name.removesuffix(", ms"), color=colour)
        labels = ["" if row[index] is None else f" {row[index]:g}" for row in table.rows.values()]
        axes.bar_label(bars, labels, fontsize=8)
    axes.set_title(table.title, loc="left", fontsize=10)
    axes.set_yticks([row + 0.19 for row in range(len(table.rows))], list(table.rows), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _time(cell: str) -> float | None:
    return None if cell == "-" else float(cell)


if __name__ == "__main__":
    main()
