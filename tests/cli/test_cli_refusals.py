# SPDX-License-Identifier: MIT
"""The command line: what it refuses, how it says so, and that it leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxloss.cli import main
from tests.cli.runs import CROSS_ENTROPY, error_of, export
from tests.runtime import run_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND; see onnxloss --help"),
        (["exprt"], "invalid choice: 'exprt'"),
        (["export"], "the following arguments are required: --api, --logits, -o/--output"),
        (["info", "--gradient", "x"], "unrecognized arguments: --gradient"),
        ([*"export --api a -o b --logits N,,3".split()], '"N,,3" is not a shape like N,10'),
        ([*"export --api a -o b --logits N;3".split()], '"N;3" is not a shape like N,10'),
        (["bench", "m", "--threads", "0"], '"0" is not a number of at least 1'),
        (["view", "m", "--port", "65536"], '"65536" is not a port in [0, 65535]'),
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
        (["--label-dtype", "int8"], 'label_dtype is "int8"; expected int64 or '),
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
@pytest.mark.parametrize(
    "command", [["info"], ["view"], ["append", *CROSS_ENTROPY, "-o", "loss.onnx"]]
)
def test_a_file_that_is_no_model_is_refused(
    name: str, content: bytes, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content)
    assert main([*command, name]) == 1
    assert error_of(capsys).startswith(f'model is "{name}"; expected an ONNX model')


def test_a_missing_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "none.onnx"]) == 1
    assert error_of(capsys) == "none.onnx: No such file or directory."


def test_weights_that_are_missing_are_named(
    forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(forward)
    onnx.save(model, forward, save_as_external_data=True, location="w.bin", size_threshold=0)
    Path("w.bin").unlink()
    assert main(["info", str(forward)]) == 1
    assert "w.bin" in error_of(capsys)


def test_without_netron_nothing_is_shown(
    forward: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view", str(forward)]) == 1
    assert error_of(capsys).endswith('get it with: pip install "onnxloss[view]"')


@pytest.mark.parametrize("command", ["append", "train-step"])
@pytest.mark.parametrize("logits", [["--logits", "score"], []], ids=["misspelt", "not named"])
def test_a_model_without_the_named_output_is_refused(
    command: str, logits: list[str], forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(forward), *CROSS_ENTROPY, *logits, "-o", "loss.onnx"]) == 1
    assert "expected an output of the model: scores, sizes." in error_of(capsys)
    assert not Path("loss.onnx").exists()


@pytest.mark.parametrize(
    "options",
    [["--optimizer", "adamv"], ["--optimizer", "sgd", "--eps", "1"], ["--momentum", "-1"]],
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
