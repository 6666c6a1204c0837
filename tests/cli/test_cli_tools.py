# SPDX-License-Identifier: MIT
"""`onnxloss fuse`, `check` and `bench`: what they write, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxloss
from onnxloss.cli import main
from tests.cli.runs import error_of, export
from tests.fuse.recording import FOLDER

GATHERED = str(FOLDER / "torch_dynamo-gather.onnx")
LEFT = str(FOLDER / "torch_dynamo-log_p_too.onnx")


def test_fuse_writes_the_model_and_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuse", GATHERED, "-o", "fused.onnx"]) == 0
    assert capsys.readouterr().out == (
        "fused.onnx: x, y -> neg\n"
        'fused  SoftmaxCrossEntropyLoss "neg" for LogSoftmax + GatherElements\n'
    )
    assert onnx.load("fused.onnx") == onnxloss.fuse(onnx.load(GATHERED))
    assert main(["fuse", GATHERED, "-o", "fused.onnx"]) == 1
    assert "fused.onnx, which exists; give --force" in error_of(capsys)


def test_fuse_takes_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("inputs.npz", x=np.zeros((2, 5), np.float32), y=np.array([0, 4]))
    assert main(["fuse", GATHERED, "--inputs", "inputs.npz", "-o", "fused.onnx"]) == 0
    Path("no.npz").write_text("no")
    capsys.readouterr()
    assert main(["fuse", GATHERED, "--inputs", "no.npz", "-o", "f.onnx"]) == 1
    assert error_of(capsys) == '--inputs is "no.npz"; expected a file of numpy.savez.'


def test_fuse_writes_nothing_where_there_is_nothing_to_fuse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fuse", LEFT, "-o", "fused.onnx"]) == 1
    assert "it feeds GatherElements and an output of the model" in error_of(capsys)
    assert not Path("fused.onnx").exists()


def test_check_says_what_a_loss_is_and_that_its_ways_agree(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export("--label-smoothing", "0.1", "--gradient") == 0
    capsys.readouterr()
    assert main(["check", "loss.onnx"]) == 0
    text = capsys.readouterr().out
    assert text.startswith('SoftmaxCrossEntropyLossAndGrad "SoftmaxCrossEntropyLossAndGrad"\n')
    assert "  settings  label_smoothing=0.1; 14 more as by default\n" in text
    assert "  runs      fused, by the library's kernel\n" in text
    assert "body and kernel agree on random data" in text
    assert text.endswith("1 loss: 1 fused, 1 with body and kernel that agree\n")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    ("api", "options"),
    [
        ("torch.nn.CrossEntropyLoss", ["--ignore-index", "1", "--reduction", "none"]),
        ("torch.nn.CrossEntropyLoss", ["--target", "probabilities", "--weight", "1,2,0.5"]),
        ("paddle.nn.CrossEntropyLoss", ["--set", "use_softmax=False"]),
    ],
    ids=["indices", "probabilities", "no softmax"],
)
def test_check_compares_every_dtype(
    api: str, options: list[str], dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--api", api, "--dtype", dtype, *options, "--logits", "N,3"]
    assert main([*arguments, "--gradient", "-o", "loss.onnx"]) == 0
    capsys.readouterr()
    assert main(["check", "loss.onnx", "--json"]) == 0
    (loss,) = json.loads(capsys.readouterr().out)["losses"]
    assert (loss["fused"], loss["verdict"]) == (True, "agree")
    assert loss["difference"] <= 1


def test_check_finds_a_body_that_computes_something_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export() == 0
    model = onnx.load("loss.onnx")
    for node in model.functions[0].node:
        node.op_type = {"Exp": "Abs"}.get(node.op_type, node.op_type)
    onnx.save(model, "other.onnx")
    capsys.readouterr()
    assert main(["check", "other.onnx"]) == 1
    printed = capsys.readouterr()
    assert "body and kernel disagree on random data" in printed.out
    assert printed.err == (
        'onnxloss: error: check: body and kernel disagree for "SoftmaxCrossEntropyLoss".\n'
    )


def test_check_names_what_it_cannot_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert export() == 0
    model = onnx.load("loss.onnx")
    del model.functions[:]
    onnx.save(model, "bare.onnx")
    model.graph.node[0].attribute.append(helper.make_attribute("typo", 1))
    capsys.readouterr()
    assert main(["check", "bare.onnx"]) == 0
    text = capsys.readouterr().out
    assert "  body      none: it needs the library\n" in text
    assert "  compared  not compared: the file has no function body for it\n" in text


def test_check_takes_the_sizes_of_constant_labels(capsys: pytest.CaptureFixture[str]) -> None:
    model = onnxloss.export(onnxloss.from_torch("torch.nn.CrossEntropyLoss"), logits=("N", 3))
    model.graph.input.pop()
    labels = onnx.numpy_helper.from_array(np.array([0, 1, 2, 1]), "labels")
    model.graph.initializer.append(labels)
    onnx.save(model, "loss.onnx")
    assert main(["check", "loss.onnx"]) == 0
    assert "body and kernel agree on random data" in capsys.readouterr().out


def test_check_of_a_sampled_loss(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own draws cannot be compared; given samples can."""
    for samples, verdict in (("drawn", "not compared"), ("shared", "agree")):
        config = onnxloss.LossConfig(
            "SampledSoftmaxCrossEntropyLoss", {"num_samples": 3}, samples=samples
        )
        onnx.save(onnxloss.export(config, logits=("N", 20), gradient=True), "sampled.onnx")
        assert main(["check", "sampled.onnx", "--json"]) == 0
        (loss,) = json.loads(capsys.readouterr().out)["losses"]
        assert (loss["fused"], loss["verdict"]) == (True, verdict)


def test_check_names_operators_that_it_does_not_know(
    forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(forward)
    model.graph.node.append(helper.make_node("HyperLoss", ["scores"], ["h"], domain="onnxloss"))
    model.opset_import.append(helper.make_opsetid("onnxloss", 2))
    onnx.save(model, "hyper.onnx")
    assert main(["check", "hyper.onnx"]) == 0
    text = capsys.readouterr().out
    assert f"onnxloss::HyperLoss: onnxloss {onnxloss.__version__} does not know this" in text


def test_check_of_a_model_without_a_loss(forward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(forward)]) == 0
    expected = (
        "no loss: no node of the domain onnxloss; for other losses there is `onnxloss fuse`\n"
    )
    assert capsys.readouterr().out == expected


def test_bench_times_both_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxloss.timing.SECONDS", 0.0)
    assert export() == 0
    capsys.readouterr()
    assert main(["bench", "loss.onnx", "--size", "N=9", "--json"]) == 0
    (loss,) = json.loads(capsys.readouterr().out)["losses"]
    assert loss["shape"] == [9, 3]
    assert loss["ratio"] == pytest.approx(loss["body_ms"] / loss["kernel_ms"])
    assert main(["bench", "loss.onnx", "--size", "8"]) == 0
    head, row, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["loss", "logits", "body", "kernel", "ratio", "runs"]
    assert " 8x3 float32 " in row
    assert last == "medians, 1 thread; ratio: body / kernel"


def test_bench_refuses_what_it_cannot_time(
    forward: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(forward)]) == 1
    assert "bench: the model has no loss" in error_of(capsys)
    assert main(["bench", str(forward), "--size", "M=8"]) == 1
    assert error_of(capsys).startswith('bench: name of a size is "M"; expected a dynamic dimension')
    with pytest.raises(SystemExit) as end:
        main(["bench", str(forward), "--size", "N=0"])
    assert end.value.code == 2
    assert '"N=0" is not a size like N=4096 or 4096' in capsys.readouterr().err
