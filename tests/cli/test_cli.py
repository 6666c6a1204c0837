# SPDX-License-Identifier: MIT
"""The command line: what it writes and what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxloss
from onnxloss.cli import main, make_command_line
from tests.cli.runs import CROSS_ENTROPY, export

COMMANDS = ("export", "append", "train-step", "info", "fuse", "check", "bench", "view")


def names(values: object) -> list[str]:
    return [value.name for value in values]


def test_export_writes_what_the_api_makes(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--label-smoothing", "0.1", "--weight", "1,2,0.5", "--ignore-index", "-1"]
    assert export(*options, "--reduction", "sum", "--gradient") == 0
    config = onnxloss.from_torch(
        "torch.nn.CrossEntropyLoss",
        label_smoothing=0.1,
        weight=[1, 2, 0.5],
        ignore_index=-1,
        reduction="sum",
    )
    expected = onnxloss.export(config, logits=("N", 3), gradient=True)
    assert onnx.load("loss.onnx") == expected
    assert capsys.readouterr().out == "loss.onnx: logits, labels, dloss -> loss, dlogits\n"


def test_export_takes_every_other_option() -> None:
    options = ["--target", "probabilities", "--dtype", "float64", "--label-dtype", "float32"]
    assert export(*options, "--inline") == 0
    model = onnx.load("loss.onnx")
    assert {entry.domain for entry in model.opset_import} == {""}
    types = [value.type.tensor_type.elem_type for value in model.graph.input]
    assert types == [TensorProto.DOUBLE, TensorProto.FLOAT]

    assert export("--set", "size_average=False", "--labels", "8", output="sum.onnx") == 0
    model = onnx.load("sum.onnx")
    reduction = [made.s for made in model.graph.node[0].attribute if made.name == "reduction"]
    assert reduction == [b"sum"]
    assert model.graph.input[1].type.tensor_type.shape.dim[0].dim_value == 8


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (
            ["--api", "paddle.nn.CrossEntropyLoss", "--weight", "1,2,3", "--set", "axis=-1"],
            onnxloss.from_paddle("paddle.nn.CrossEntropyLoss", weight=[1, 2, 3], axis=-1),
        ),
        (
            ["--api", "keras.losses.SparseCategoricalCrossentropy", "--set", "from_logits=True"],
            onnxloss.from_tf("keras.losses.SparseCategoricalCrossentropy", from_logits=True),
        ),
        (
            ["--api", "SoftmaxCrossEntropyLoss", "--set", "weights=[1,2,3]"],
            onnxloss.from_onnx("SoftmaxCrossEntropyLoss", weights=[1, 2, 3]),
        ),
    ],
    ids=["paddle", "keras", "onnx"],
)
def test_export_knows_the_other_frameworks(options: list[str], config: onnxloss.LossConfig) -> None:
    assert main(["export", *options, "--logits", "N,3", "-o", "loss.onnx"]) == 0
    assert onnx.load("loss.onnx") == onnxloss.export(config, logits=("N", 3))


def test_sample_weights_become_an_input(forward: Path) -> None:
    api = ["--api", "tf.compat.v1.losses.softmax_cross_entropy"]
    assert main(["export", *api, "--logits", "N,3", "--sample-weights", "N", "-o", "a.onnx"]) == 0
    options = ["--logits", "scores", "--sample-weights", "importance", "-o", "b.onnx"]
    assert main(["append", str(forward), *api, *options]) == 0
    assert names(onnx.load("a.onnx").graph.input) == ["logits", "labels", "sample_weights"]
    assert sorted(names(onnx.load("b.onnx").graph.input)) == ["importance", "labels", "x"]


def test_export_reads_weights_from_a_file() -> None:
    np.save("weights.npy", np.array([1, 2, 0.5], np.float32))
    assert export("--weight-file", "weights.npy") == 0
    (weights,) = onnx.load("loss.onnx").graph.initializer
    assert onnx.numpy_helper.to_array(weights).tolist() == [1, 2, 0.5]


def test_append_puts_the_loss_behind_a_model(forward: Path) -> None:
    options = ["--logits", "scores", "--labels", "classes", "--loss", "cost", "--gradient"]
    names_of_gradient = ["--dloss", "dcost", "--dlogits", "dscores"]
    arguments = ["append", str(forward), *CROSS_ENTROPY, *options, *names_of_gradient]
    assert main([*arguments, "-o", "loss.onnx"]) == 0
    graph = onnx.load("loss.onnx").graph
    assert names(graph.input) == ["x", "classes", "dcost"]
    assert names(graph.output) == ["scores", "sizes", "cost", "dscores"]


def test_train_step_takes_its_options(forward: Path) -> None:
    arguments = ["train-step", str(forward), *CROSS_ENTROPY, "--logits", "scores"]
    adamw = ["--optimizer", "adamw", "--betas", "0.8,0.99", "--eps", "1e-7", "--weight-decay", "0"]
    assert main([*arguments, *adamw, "--parameters", "matrix", "-o", "step.onnx"]) == 0
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    expected = onnxloss.training_step(
        onnx.load(forward),
        config,
        logits="scores",
        optimizer="adamw",
        parameters=["matrix"],
        betas=(0.8, 0.99),
        eps=1e-7,
        weight_decay=0.0,
    )
    assert onnx.load("step.onnx") == expected


def test_train_step_takes_what_comes_before_the_optimizer(forward: Path) -> None:
    arguments = ["train-step", str(forward), *CROSS_ENTROPY, "--logits", "scores"]
    sgd = ["--momentum", "0.9", "--nesterov", "--max-norm", "1", "--accumulation-steps", "4"]
    scale = ["--loss-scale", "1024", "--growth-interval", "10"]
    assert main([*arguments, *sgd, *scale, "-o", "step.onnx"]) == 0
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    expected = onnxloss.training_step(
        onnx.load(forward),
        config,
        logits="scores",
        momentum=0.9,
        nesterov=True,
        max_norm=1.0,
        accumulation_steps=4,
        loss_scale=1024.0,
        growth_interval=10,
    )
    assert onnx.load("step.onnx") == expected


def test_info_names_losses_settings_bodies_and_library(
    forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--label-smoothing", "0.1") == 0
    capsys.readouterr()
    assert main(["info", "loss.onnx"]) == 0
    out = capsys.readouterr().out
    assert 'onnxloss::SoftmaxCrossEntropyLoss "SoftmaxCrossEntropyLoss"' in out
    assert "label_smoothing=0.1," in out
    assert "  body     present, " in out
    assert f"library    installed, {onnxloss.library_path()}" in out

    model = onnx.load("loss.onnx")
    del model.functions[:]
    onnx.save(model, "bare.onnx")
    assert main(["info", "bare.onnx"]) == 0
    assert "  body     absent: needs the library" in capsys.readouterr().out

    assert main(["info", str(forward)]) == 0
    assert "losses     none: no node of the domain onnxloss\n" in capsys.readouterr().out


def test_info_finds_a_loss_in_a_branch(capsys: pytest.CaptureFixture[str]) -> None:
    assert export() == 0
    loss = onnx.load("loss.onnx")
    branch = helper.make_graph(list(loss.graph.node), "branch", [], list(loss.graph.output))
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    loss.graph.node[0].CopyFrom(node)
    onnx.save(loss, "if.onnx")
    capsys.readouterr()
    assert main(["info", "if.onnx"]) == 0
    assert "losses     2\n" in capsys.readouterr().out


def test_the_installed_command_runs_and_warns_in_one_line() -> None:
    command = Path(sys.executable).with_name("onnxloss")
    arguments = ["export", *CROSS_ENTROPY, "--label-smoothing", "-1", "--logits", "N,3", "-o", "a"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("onnxloss: warning: from_torch: label_smoothing is -1.0;")
    assert done.stderr.count("\n") == 1
    version = subprocess.run(
        [sys.executable, "-m", "onnxloss", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout == f"onnxloss {onnxloss.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    example = capsys.readouterr().out.rpartition("example:\n")[2].split()
    assert example[:2] == ["onnxloss", command]
    make_command_line().parse_args(example[1:])
