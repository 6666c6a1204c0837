# SPDX-License-Identifier: MIT
"""A headless Chromium, and `onnxloss view` for it to look at."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.view.viewer import Viewer

SIZE = {"width": 1280, "height": 760}
COLOURS = 64
expect.set_options(timeout=60_000)  # milliseconds; a machine may be busy with more than this


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[[onnx.ModelProto], Page]]:
    """Shows a model in Netron; nothing outside this machine is asked for anything."""
    with contextlib.ExitStack() as stack:

        def open_model(model: onnx.ModelProto) -> Page:
            path = tmp_path / "model.onnx"
            onnx.save(model, path)
            address = stack.enter_context(Viewer(path))
            page = stack.enter_context(contextlib.closing(browser.new_page(viewport=SIZE)))
            page.route(lambda url: not url.startswith(address), lambda route: route.abort())
            page.goto(address)
            page.locator("#message-button").click()  # Netron's privacy notice
            page.locator(".node-item-type").first.wait_for()
            return page

        yield open_model


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Page, str], None]:
    """Takes a picture of a page; `make screenshots` keeps it for the documentation."""
    folder = Path(os.environ.get("ONNXLOSS_SCREENSHOTS", tmp_path))

    def take(page: Page, name: str) -> None:
        page.mouse.move(4, SIZE["height"] // 2)  # away from what a click has lit up
        page.wait_for_timeout(500)  # the sidebar slides in
        shot = Image.open(io.BytesIO(page.screenshot()))
        shot.quantize(COLOURS).save(folder / f"{name}.png", optimize=True)

    return take
