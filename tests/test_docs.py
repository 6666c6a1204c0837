# SPDX-License-Identifier: MIT
"""What the documentation shows is what runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from docs import command_line, generate
from tests.pages import check_page
from tests.test_accuracy import GRADIENT_ULP, LOSS_ULP, NARROW_ULP

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")])


@pytest.mark.parametrize(
    ("page", "make"),
    [
        ("operators.md", generate.operator_reference),
        ("command_line.md", command_line.command_line),
    ],
)
def test_a_generated_page_is_what_its_sources_say(page: str, make: Callable[[], str]) -> None:
    assert make() == (ROOT / "docs" / page).read_text(), "run `make docs`"


def test_the_readme_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    code, output = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", README, re.S).groups()
    assert len(code.splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (output, "")


def test_the_readme_commands_print_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `$` line runs in turn; `...` in the output stands for what differs from day to day."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "models").symlink_to(ROOT / "models")
    (session,) = re.findall(r"```console\n(.*?)```", README, re.S)
    steps = re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", session, re.M)
    assert len(steps) == session.count("$ onnxloss")
    for command, output in steps:
        words = shlex.split(command.replace("\\\n", " "))
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        pattern = ".*".join(map(re.escape, output.split("...")))
        assert re.fullmatch(pattern, done.stdout + done.stderr), done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    anchors = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", ["index.md", "torch.md", "paddle.md", "tensorflow.md", "onnx.md"])
def test_the_examples_of_a_page_print_what_it_says(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    check_page(page, framework=False)


def test_the_page_on_numerics_names_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "numerics.md").read_text()
    named = set(re.findall(r"`(test_\w+|assert_\w+|[A-Z_]+_BOUND)`", page))
    sources = "".join(path.read_text() for path in ROOT.glob("tests/*.py"))
    assert len(named) >= 10
    for name in named:
        assert re.search(rf"^(def )?{name}\b", sources, re.M), name


def test_the_page_on_numerics_has_the_bounds_that_are_asserted() -> None:
    page = (ROOT / "docs" / "numerics.md").read_text()
    most, every = GRADIENT_ULP["most"], GRADIENT_ULP["all"]
    for bound in (
        f"loss, float32 and float64 | {LOSS_ULP:g} ulp |",
        f"float64 | {most:g} ulp for 99.9 % of the elements, {every:g} ulp for all |",
        f"float16 and bfloat16 | {NARROW_ULP:g} ulp |",
    ):
        assert bound in page, bound
