# SPDX-License-Identifier: MIT
"""The interactive sessions of a page of docs, as doctest runs them."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
_FRAMEWORK = r"^## With \w+ installed$"
"""The heading under which a page's examples need the framework."""


def check_page(name: str, *, framework: bool) -> None:
    """Runs the examples of a page in turn; those that need the framework only if it is there."""
    text = (DOCS / name).read_text()
    if not framework:
        text = re.sub(rf"{_FRAMEWORK}.*?(?=^## |\Z)", "", text, flags=re.M | re.S)
    source = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
    test = doctest.DocTestParser().get_doctest(source, {}, name, name, 0)
    assert test.examples, f"{name} has no examples"
    problems: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=problems.append)
    assert not problems, "".join(problems)
