# SPDX-License-Identifier: MIT
"""The benchmark runs, and refuses to time a wrong result."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from bench import bench_losses, bench_training, plots


# Where torch is installed, its compiler warns of torch's own code.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("dtype", bench_losses.DTYPES)
def test_it_prints_a_time_for_each_way(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "benchmarks.md"
    arguments = ["--shapes", "7x5", "3x70000", "--repeats", "1", "--threads", "1", "2"]
    bench_losses.main([*arguments, "--dtype", dtype, "--markdown", str(target)])
    printed = capsys.readouterr().out
    for text in (printed, target.read_text()):
        assert len(re.findall(r"^## (7x5|3x70000) \w+, [12] thread", text, re.M)) == 4
        numbers = r"( \d+\.\d+ \|){6}$"
        for name in ("onnxloss, library", "onnxloss, function body"):
            assert len(re.findall(rf"^\| {name} \|{numbers}", text, re.M)) == 4
        assert "onnxruntime" in text


def test_it_refuses_to_time_a_wrong_gradient() -> None:
    problem = bench_losses.make_problem((4, 3), "float32", 1)
    wrong = dataclasses.replace(problem, dlogits=problem.dlogits * np.float32(1.001))
    with pytest.raises(SystemExit, match=r"error of dlogits is 1\.0e-03; expected at most"):
        bench_losses.measure(wrong, 1)


def test_it_times_training_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "training.md"
    bench_training.main(["--vocabulary", "50", "--rounds", "1", "--markdown", str(target)])
    for text in (capsys.readouterr().out, target.read_text()):
        assert len(re.findall(r"^## (Digits|Transformer), .*, 1 thread$", text, re.M)) == 2
        for way in ("Trainer.step", "session.run"):
            assert len(re.findall(rf"^\| {way} \| \d+\.\d+ \|", text, re.M)) == 2
        assert len(re.findall(r"^Trainer.step takes [+-]\d+ us more", text, re.M)) == 2


def test_it_refuses_to_time_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, _ = bench_training.problems(vocabulary=50, rounds=1)
    monkeypatch.setattr(bench_training, "_session", lambda *_: lambda batch: 0.0)
    with pytest.raises(SystemExit, match="expected them equal to 1e-03"):
        bench_training.measure(digits, 1)


def test_the_pictures_show_what_the_page_says() -> None:
    page = (plots.DOCS / "benchmarks.md").read_text()
    tables = plots.read(page)
    titles = re.findall(r"^## (.*)$", page, re.M)
    # Of the sampled softmax the loss alone is timed.
    drawn = [title for title in titles if not title.startswith("Sampled")]
    assert [table.title for table in tables] == drawn
    for table in tables:
        loss, both = next(iter(table.rows.values()))
        assert 0 < loss < both
    figure = plots.draw(tables[:2])
    bars = [bar.get_width() for bar in figure.axes[0].containers[0]]
    assert bars[0] == tables[0].rows["onnxloss, library"][0]
