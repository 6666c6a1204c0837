# SPDX-License-Identifier: MIT
"""What Netron shows of our models, in a real browser."""

from __future__ import annotations

import copy
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from playwright.sync_api import Page, expect

import onnxloss
from onnxloss.onnxscript_defs import DOMAIN, find
from tests.view.viewer import Viewer

CLASSIFIER = Path(__file__).parents[2] / "models" / "digits_classifier.onnx"
Show = Callable[[onnx.ModelProto], Page]
Picture = Callable[[Page, str], None]


def smoothed(*, gradient: bool = False, inline: bool = False) -> onnx.ModelProto:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.1)
    return onnxloss.export(config, logits=("N", 10), gradient=gradient, inline=inline)


def loss_node(page: Page, title: str = "SoftmaxCro") -> None:
    """Clicks the node whose title begins so; Netron cuts long titles in the middle."""
    page.locator(".node-item-type-loss", has_text=re.compile(f"^{title}")).first.click()


def test_the_node_says_what_it_computes_and_where_it_came_from(
    show: Show, picture: Picture
) -> None:
    page = show(smoothed())
    loss_node(page)
    sidebar = page.locator("#sidebar")
    expect(sidebar).to_contain_text("From torch.nn.CrossEntropyLoss.")
    expect(sidebar).to_contain_text(re.compile(r"label_smoothing = 0\.1(?!\d)"))
    names = [attribute.name for attribute in find("SoftmaxCrossEntropyLoss").attributes]
    for name in names:
        expect(sidebar.locator(f"input[value={name}]")).to_have_count(1)
    picture(page, "netron-node")


@pytest.mark.parametrize("name", ["SoftmaxCrossEntropyLoss", "SoftLabelCrossEntropyLoss"])
def test_the_function_is_documented(name: str, show: Show, picture: Picture) -> None:
    config = onnxloss.LossConfig(name, {"label_smoothing": 0.1})
    page = show(onnxloss.export(config, logits=("N", 10)))
    loss_node(page, name[:10])
    page.locator("#sidebar .sidebar-item-value-expander").first.click()
    sidebar = page.locator("#sidebar .sidebar-documentation")
    spec = find(name)
    expect(sidebar.locator("pre")).to_contain_text(spec.formula.splitlines()[-1])
    for attribute in spec.attributes:
        heading = sidebar.locator("dt", has_text=re.compile(f"^{attribute.name}:"))
        expect(heading).to_have_count(1)
    for port in (*spec.forward.inputs, *spec.forward.outputs):
        expect(sidebar.locator("li code", has_text=re.compile(f"^{port.name}$"))).to_have_count(1)
    for source in spec.sources:
        address = re.search(r"https://\S+", source).group()
        expect(sidebar.locator(f"a[href='{address}']")).to_have_count(1)
    if name == "SoftmaxCrossEntropyLoss":
        picture(page, "netron-documentation")


def test_the_body_opens_and_its_values_have_names(show: Show, picture: Picture) -> None:
    page = show(smoothed())
    page.locator("text=\u0192").first.click()
    page.locator("text=GatherElements").first.wait_for()
    picture(page, "netron-body")
    page.locator("text=GatherElements").first.click()
    sidebar = page.locator("#sidebar")
    for name in ("neg_log_p", "y_on_axis", "picked"):
        expect(sidebar).to_contain_text(f"name: {name}")


def test_a_node_without_a_function_is_documented_and_coloured(show: Show) -> None:
    model = copy.deepcopy(smoothed(gradient=True))
    del model.functions[:]
    page = show(model)
    loss_node(page)
    sidebar = page.locator("#sidebar")
    for port in ("dloss", "logits", "labels", "dlogits"):
        expect(sidebar.locator(f"input[value={port}]")).to_have_count(1)
    page.locator("#sidebar .sidebar-item-value-expander").first.click()
    expect(page.locator("#sidebar .sidebar-documentation pre")).to_contain_text("dlogits_ic")


def test_the_model_says_who_wrote_it_and_from_what(show: Show) -> None:
    page = show(smoothed())
    page.locator("#sidebar-model-button").click()
    sidebar = page.locator("#sidebar")
    expect(sidebar).to_contain_text(f"onnxloss {onnxloss.__version__}")
    expect(sidebar).to_contain_text('"source": "torch.nn.CrossEntropyLoss"')
    expect(sidebar).to_contain_text(f"{DOMAIN} v1")


def test_a_loss_behind_a_model_is_coloured(show: Show, picture: Picture) -> None:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    page = show(onnxloss.append_to(onnx.load(CLASSIFIER), config))
    loss_node(page)
    picture(page, "netron-classifier")


def test_a_training_step_shows_its_loss(show: Show) -> None:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    page = show(onnxloss.training_step(onnx.load(CLASSIFIER), config, optimizer="sgd"))
    loss_node(page)
    expect(page.locator("#sidebar")).to_contain_text("From torch.nn.CrossEntropyLoss.")


def test_an_inlined_model_has_no_node_of_ours(show: Show) -> None:
    page = show(smoothed(inline=True))
    expect(page.locator(".node-item-type-loss")).to_have_count(0)


def test_a_taken_port_is_refused_in_one_line(show: Show, tmp_path: Path) -> None:
    page = show(smoothed())
    port = page.url.rstrip("/").rpartition(":")[2]
    command = ["view", "model.onnx", "--host", "127.0.0.1", "--no-browser", "--port", port]
    done = subprocess.run(
        [sys.executable, "-m", "onnxloss", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "onnxloss: error: Address already in use.\n"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(
    ending: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    model = tmp_path / "model.onnx"
    onnx.save(smoothed(), model)
    with Viewer(model, ending):
        (folder,) = tmp_path.glob("onnxloss-view-*")
        assert (folder / "netron" / "onnx.js").is_file()
    assert list(tmp_path.iterdir()) == [model]
