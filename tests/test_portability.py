# SPDX-License-Identifier: MIT
"""docs/portability.md says what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.portability import COLUMNS, PAGE, Column, measure, page, written


def test_the_page_is_complete() -> None:
    assert list(written()) == [column.title for column in COLUMNS]
    assert page(written()) == PAGE.read_text()


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.title)
def test_the_table_is_what_is_measured(column: Column) -> None:
    if not Path(column.python).exists():
        pytest.skip(f"no interpreter at {column.python}: `make portability` makes it")
    measured, said = measure(column), written()[column.title]
    if measured.version != said.version:
        pytest.skip(f"the table is about {said.version}, and here is {measured.version}")
    assert measured == said, "run `make portability`"
