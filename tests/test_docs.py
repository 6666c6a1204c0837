# SPDX-License-Identifier: MIT
"""What the documentation shows is what runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")])


def test_the_operator_reference_is_what_the_specs_say() -> None:
    path = ROOT / "docs" / "generate.py"
    module_spec = importlib.util.spec_from_file_location("generate", path)
    generate = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(generate)
    written = (ROOT / "docs" / "operators.md").read_text()
    assert generate.operator_reference() == written, "run `make docs`"


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
    repeated = {f"{anchor}-1" for anchor in anchors}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors | repeated
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target
