# SPDX-License-Identifier: MIT
"""The command line: what it writes, what it refuses, and how it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxloss
from onnxloss.cli import main
from onnxloss.cli_options import make_parser
from tests.runtime import run_model

CROSS_ENTROPY = ["--api", "torch.nn.CrossEntropyLoss"]
COMMANDS = ("export", "append", "train-step", "info")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def forward() -> Path:
    """A linear classifier of three classes with the outputs `scores` and `sizes`."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "matrix", "bias"], ["scores"]),
            helper.make_node("ReduceL2", ["x"], ["sizes"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", floats, ("N", 2))],
        [
            helper.make_tensor_value_info("scores", floats, ("N", 3)),
            helper.make_tensor_value_info("sizes", floats, (1, 1)),
        ],
        [
            onnx.numpy_helper.from_array(np.eye(2, 3, dtype=np.float32), "matrix"),
            onnx.numpy_helper.from_array(np.zeros(3, np.float32), "bias"),
        ],
    )
    opset = [helper.make_opsetid("", 19)]
    path = Path("forward.onnx")
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def export(*options: str, output: str = "loss.onnx") -> int:
    return main(["export", *CROSS_ENTROPY, "--logits", "N,3", "-o", output, *options])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    text = capsys.readouterr().err
    assert text.startswith("onnxloss: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.removeprefix("onnxloss: error: ").rstrip("\n")


def names(values: object) -> list[str]:
    return [value.name for value in values]


def test_export_writes_what_the_api_makes(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--label-smoothing", "0.1", "--weight", "1,2,0.5", "--ignore-index", "-1"]
    assert export(*options, "--reduction", "sum", "--label-dtype", "int32", "--gradient") == 0
    config = onnxloss.from_torch(
        "torch.nn.CrossEntropyLoss",
        label_smoothing=0.1,
        weight=[1, 2, 0.5],
        ignore_index=-1,
        reduction="sum",
    )
    expected = onnxloss.export(config, logits=("N", 3), label_dtype="int32", gradient=True)
    assert onnx.load("loss.onnx") == expected
    assert capsys.readouterr().out == "loss.onnx: logits, labels, dloss -> loss, dlogits\n"


def test_export_takes_every_other_option() -> None:
    assert export("--target", "probabilities", "--dtype", "float64", "--inline") == 0
    model = onnx.load("loss.onnx")
    assert {entry.domain for entry in model.opset_import} == {""}
    assert model.graph.input[1].type.tensor_type.elem_type == TensorProto.DOUBLE

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
    make_parser(dict.fromkeys(COMMANDS)).parse_args(example[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND; see onnxloss --help"),
        (["exprt"], "invalid choice: 'exprt'"),
        (["export"], "the following arguments are required: --api, --logits, -o/--output"),
        (["info", "--gradient", "x"], "unrecognized arguments: --gradient"),
        ([*"export --api a -o b --logits N,,3".split()], '"N,,3" is not a shape like N,10'),
        ([*"export --api a -o b --logits 3 --weight 1,x".split()], '"1,x" is not numbers like'),
        ([*"export --api a -o b --logits 3 --set x".split()], '"x" is not NAME=VALUE'),
        ([*"export --api a -o b --logits 3 --label-smoothing much".split()], "'much'"),
        ([*"export --api a -o b --logits 3 --gradeint".split()], "--gradeint"),
        (
            [*"export --api a -o b --logits 3 --weight 1 --weight-file w.npy".split()],
            "not allowed with argument --weight",
        ),
    ],
)
def test_a_command_line_that_cannot_be_read_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in error_of(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reduction", "average"], 'reduction is "average"; expected "none" or "mean" or "sum".'),
        (["--target", "onehot"], 'target is "onehot"; expected "indices" or "probabilities".'),
        (["--dtype", "float"], 'dtype is "float"; expected float16 or bfloat16 or '),
        (["--label-dtype", "int8"], 'label_dtype is "int8"; expected int64 or int32 or uint8.'),
        (["--label-smoothing", "1.5"], "label_smoothing is 1.5; expected a number in [0, 1]."),
        (["--weight", "1,2"], "class_weights is [2]; expected [3]."),
        (["--set", "smoothing=0.1"], "smoothing is not a setting of torch.nn.CrossEntropyLoss;"),
        (["--weight", "1,2,3", "--set", "weight=[1]"], "--set is "),
        (["--outputs", "loss,probs"], "outputs is ('loss', 'probs'); expected loss"),
        (["--api", "nn.CrossEntropyLoss"], '--api is "nn.CrossEntropyLoss"; expected a full name'),
        (["--api", "torch.nn.NLLLoss"], 'loss is "torch.nn.NLLLoss"; expected "torch.nn.'),
        (["--target", "probabilities", "--ignore-index", "1"], "ignore_index is 1; expected none"),
        (["--weight-file", "none.npy"], "none.npy: No such file or directory."),
        (["--weight-file", "text.npy"], '--weight-file is "text.npy"; expected a file of numpy.'),
        (["--weight-file", "empty.npy"], '--weight-file is "empty.npy"; expected a file of numpy.'),
        (["--weight-file", "two.npz"], '--weight-file is "two.npz"; expected one array, '),
    ],
)
def test_a_setting_that_is_refused_ends_with_1_and_writes_nothing(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.npy").write_text("1 2 3")
    Path("empty.npy").touch()
    np.savez("two.npz", a=np.ones(3), b=np.ones(3))
    before = sorted(os.listdir())
    assert export(*options) == 1
    assert message in error_of(capsys)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("name", "content"), [("text.onnx", b"not a model"), ("empty.onnx", b""), ("t.json", b"{]")]
)
@pytest.mark.parametrize("command", [["info"], ["append", *CROSS_ENTROPY, "-o", "loss.onnx"]])
def test_a_file_that_is_no_model_is_refused(
    name: str, content: bytes, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content)
    assert main([*command, name]) == 1
    assert error_of(capsys) == f'model is "{name}"; expected an ONNX model.'


def test_a_missing_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "none.onnx"]) == 1
    assert error_of(capsys) == "none.onnx: No such file or directory."


@pytest.mark.parametrize("command", ["append", "train-step"])
@pytest.mark.parametrize("logits", [["--logits", "score"], []], ids=["misspelt", "not named"])
def test_a_model_without_the_named_output_is_refused(
    command: str, logits: list[str], forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(forward), *CROSS_ENTROPY, *logits, "-o", "loss.onnx"]) == 1
    assert "expected an output of the model: scores, sizes." in error_of(capsys)
    assert not Path("loss.onnx").exists()


@pytest.mark.parametrize(
    "options", [["--optimizer", "adam"], ["--optimizer", "sgd", "--eps", "1"], ["--momentum", "-1"]]
)
def test_a_misspelt_optimizer_is_refused(
    options: list[str], forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-step", str(forward), *CROSS_ENTROPY, "--logits", "scores", *options]
    assert main([*arguments, "-o", "step.onnx"]) == 1
    assert error_of(capsys).startswith("training_step: ")
    assert not Path("step.onnx").exists()


def test_an_invalid_forward_model_is_refused(
    forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(forward)
    model.graph.node[0].op_type = "Gem"
    onnx.save(model, forward)
    arguments = ["append", str(forward), *CROSS_ENTROPY, "--logits", "scores", "-o", "loss.onnx"]
    assert main(arguments) == 1
    assert "Gem" in error_of(capsys)


def test_an_existing_output_is_kept_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("loss.onnx").write_text("mine")
    assert export() == 1
    assert error_of(capsys) == "--output is loss.onnx, which exists; give --force to replace it."
    assert Path("loss.onnx").read_text() == "mine"
    assert export("--force") == 0
    feeds = {"logits": np.zeros((2, 3), np.float32), "labels": np.zeros(2, np.int64)}
    np.testing.assert_allclose(run_model(onnx.load("loss.onnx"), feeds)["loss"], np.log(3), 1e-6)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("none/loss.onnx", "cannot be written: No such file or directory."),
        ("file/loss.onnx", "cannot be written: Not a directory."),
        ("folder", "expected a file, not a directory."),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    assert export("--force", output=output) == 1
    assert message in error_of(capsys)
    assert sorted(os.listdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    try:
        assert export() == 1
        assert "cannot be written: Permission denied." in error_of(capsys)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bytes = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        write_bytes(path, data[:10])
        raise OSError(28, "No space left on device")

    Path("loss.onnx").write_text("mine")
    monkeypatch.setattr(Path, "write_bytes", fill)
    assert export("--force") == 1
    assert "cannot be written: No space left on device." in error_of(capsys)
    assert os.listdir() == ["loss.onnx"]
    assert Path("loss.onnx").read_text() == "mine"
