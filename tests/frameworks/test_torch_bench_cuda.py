# SPDX-License-Identifier: MIT
"""The GPU's benchmark, on the emulated kernels: all of it but what it times."""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from bench import bench_cuda  # noqa: E402
from bench.cuda_losses import (  # noqa: E402
    IMPLEMENTATIONS,
    SETTINGS,
    Library,
    Problem,
    Run,
    Work,
    ours,
)
from bench.timing import BOTH, LOSS  # noqa: E402

ARGUMENTS = ["--emulate", "--rows", "5", "--repeats", "1", "--segmentation"]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The implementations; torch.compile takes seconds for each shape."""
    kept = {name: make for name, make in IMPLEMENTATIONS.items() if name != "torch.compile"}
    monkeypatch.setattr(bench_cuda, "IMPLEMENTATIONS", kept)
    return kept


@pytest.mark.usefixtures("peers")
def test_every_setting_is_right_and_timed(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    arguments = [*ARGUMENTS, "2x7x30", "--classes", "40", "9000", "--markdown", str(page)]
    assert bench_cuda.main([*arguments, "--results", str(results)]) == 0
    rows = json.loads(results.read_text())["results"]
    own = [row for row in rows if row["implementation"] == "onnxloss"]
    # Of three dtypes two shapes and two works, and of one the other settings and the planes.
    assert len(own) == 3 * 2 * 2 + (len(SETTINGS) - 1) * 2 + 2
    eager = [row for row in rows if row["implementation"] == "torch eager"]
    assert all(row["ms"] > 0 and row["note"] == "" for row in (*own, *eager))
    text = page.read_text()
    assert "whose times say nothing" in text
    assert f"bench_cuda --emulate {' '.join(ARGUMENTS[1:])} 2x7x30" in text
    number = r"\d+\.\d{3} \(\d+\.\d\d\)"
    for dtype in ("bfloat16", "float16", "float32"):
        table = text.split(f"| {dtype}: rows x classes ")[1].split("\n\n")[0]
        assert len(re.findall(rf"^\| 5 x (40|9000) \| loss.*? \| {number} \|", table, re.M)) == 4
    assert re.search(r"^onnxloss is the fastest at \d+ of 14 points", text, re.M)
    assert "no soft labels" in text
    assert len(re.findall(r"^\| [\w ]+, 5 x 40 bfloat16 \|", text, re.M)) == 2 * len(SETTINGS)


@pytest.mark.usefixtures("peers")
def test_it_goes_on_where_time_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    arguments = [*ARGUMENTS, "--classes", "6", "--dtypes", "float32", "--settings", "plain"]
    arguments += ["--results", str(results)]
    assert bench_cuda.main([*arguments, "--minutes", "0"]) == 0
    assert "2 of 2 did not fit into the 0 minutes" in capsys.readouterr().out
    assert json.loads(results.read_text())["results"] == []
    assert bench_cuda.main(arguments) == 0
    done = json.loads(results.read_text())
    monkeypatch.setattr(bench_cuda, "measure", None)
    assert bench_cuda.main(arguments) == 0
    again = json.loads(results.read_text())
    assert again["results"] == done["results"]
    assert len(again["heads"]) == 3


def test_what_is_wrong_is_not_timed(
    peers: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(problem: Problem, library: Library) -> Run:
        run = ours(problem, library)

        def run_wrongly() -> tuple[object, object]:
            loss, gradient = run()
            return loss, None if gradient is None else gradient * 1.05

        return run_wrongly

    def broken(_problem: Problem, _library: Library) -> Run:
        raise TypeError("not this time")

    def unwritten(problem: Problem, library: Library) -> Run:
        run = ours(problem, library)
        dlogits = torch.full_like(problem.logits, torch.nan)
        return lambda: (run()[0], dlogits)

    def once(problem: Problem, library: Library) -> Run:
        run, runs = ours(problem, library), iter(range(2))

        def run_once() -> tuple[object, object]:
            if next(runs):
                raise MemoryError("no more\nof it")
            return run()

        return run_once

    peers |= {"onnxloss": wrong, "torch eager": broken, "Liger": unwritten, "QuACK": once}
    results = tmp_path / "results.json"
    arguments = [*ARGUMENTS, "--classes", "6", "--dtypes", "float32", "--settings", "plain"]
    assert bench_cuda.main([*arguments, "--results", str(results)]) == 1
    printed = capsys.readouterr().out
    assert "loss + gradient, onnxloss: wrong: gradient off by 5.0e-02" in printed
    assert "torch eager: TypeError: not this time" in printed
    assert "QuACK: MemoryError: no more\n" in printed
    assert "loss + gradient, Liger: wrong: gradient off by nan" in printed


def test_what_fails_gives_its_memory_back() -> None:
    class Fails:
        def __call__(self) -> float:
            raise MemoryError("no more")

    runs = {"fails": Fails(), "runs": lambda: 2.0}
    held = weakref.ref(runs["fails"])
    released = []
    machine = SimpleNamespace(
        seconds=lambda run: run(), release=lambda: released.append(held() is None)
    )
    times, faults = bench_cuda.medians(machine, runs, 3)
    assert (times, faults) == ({"runs": 2.0}, {"fails": "MemoryError: no more"})
    assert released == [True]


def test_what_matters_most_comes_first() -> None:
    wanted = bench_cuda.works(bench_cuda.parse([]))
    main = [Work(8192, 128256, "bfloat16", "plain", work) for work in (LOSS, BOTH)]
    assert wanted[:2] == [(work, tuple(IMPLEMENTATIONS)) for work in main]
    each = [(work, name) for work, names in wanted for name in names]
    assert len(set(each)) == len(each)
    kinds = [(work.dtype, work.setting == "plain", work.inner > 1) for work, _ in wanted]
    order = [("bfloat16", True, False), ("float32", True, False), ("bfloat16", False, False)]
    order += [("bfloat16", True, True), ("float16", True, False)]
    assert list(dict.fromkeys(kinds)) == order


def test_how_long_a_work_may_take() -> None:
    def of(rows: int) -> Work:
        return Work(rows, 100, "float32", "plain", LOSS)

    assert bench_cuda.expected(of(8), ["quick"], []) == 0
    spent = [(of(2), ["quick"], 1.0), (of(16), ["quick", "slow"], 3.0)]
    assert bench_cuda.expected(of(4), ["quick"], spent) == 2 * 2
    assert bench_cuda.expected(of(8), ["quick"], spent) == 2 * 3
    assert bench_cuda.expected(of(32), ["slow"], spent) == 2 * 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torch_compile_is_a_peer(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    arguments = [*ARGUMENTS, "--classes", "40", "--dtypes", "float32", "--settings", "plain"]
    assert bench_cuda.main([*arguments, "--results", str(results)]) == 0
    rows = json.loads(results.read_text())["results"]
    (notes,) = {row["note"] for row in rows if row["implementation"] == "torch.compile"}
    assert notes == ""


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert not torch.cuda.is_available()
    assert bench_cuda.main([]) == 1
    assert capsys.readouterr().err == "bench_cuda: no CUDA device\n"
