# SPDX-License-Identifier: MIT
"""The examples of docs/tensorflow.md, with those that need the framework."""

from __future__ import annotations

import pytest

from tests.pages import check_page


@pytest.mark.filterwarnings("ignore")  # the framework's own remarks
def test_the_examples_print_what_the_page_says() -> None:
    check_page("tensorflow.md", framework=True)
