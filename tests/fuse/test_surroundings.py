# SPDX-License-Identifier: MIT
"""`onnxloss.fuse` in models that have more than a loss: nothing else changes, or it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxloss
from onnxloss.trial import run

GATHERED = "l = LogSoftmax <axis = 1> (x) g = GatherElements <axis = 1> (l, y)"
LOSS = f"{GATHERED} o = Neg(g)"
HARD = onnxloss.from_onnx("SoftmaxCrossEntropyLoss")


def model_of(text: str, *, opset: int = 19, functions: str = "") -> onnx.ModelProto:
    """A graph as onnx.parser reads it, with the domains `com.microsoft` and `own`."""
    imports = f'"" : {opset}, "com.microsoft" : 1, "own" : 1'
    head = f"<ir_version: 9, opset_import: [{imports}]>"
    return onnx.parser.parse_model(f"{head} g {text} {functions}")


def assert_same(model: onnx.ModelProto, **feeds: Any) -> onnx.ModelProto:
    """The fused model, which gives what the model gives."""
    random = np.random.default_rng(3)
    feeds = {"x": random.normal(size=(4, 3)).astype(np.float32), **feeds}
    fused = onnxloss.fuse(model)
    assert [node for node in fused.graph.node if node.domain == "onnxloss"]
    expected = run(model, feeds, library=False)
    for library in (False, True):
        found = run(fused, feeds, library=library)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    return fused


COLUMN = np.array([[0], [2], [1], [1]])
ROW = COLUMN[:, 0]


@pytest.mark.parametrize("opset", [13, 18])
def test_functions_of_older_models_are_written_out(opset: int) -> None:
    """onnx.version_converter would drop them."""
    model = model_of(
        "(float[N,3] x, int64[N] y) => (float[N,3] q, float o)"
        "{ q = own.Twice(x) o = SoftmaxCrossEntropyLoss(x, y) }",
        opset=opset,
        functions=f'<domain: "own", opset_import: ["" : {opset}]>'
        " Twice (a) => (b) { b = Add(a, a) }",
    )
    assert_same(model, y=ROW)
    step = onnxloss.append_to(model, HARD, logits="q", labels="z", loss="loss")
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(
        run(step, {"x": x, "y": ROW, "z": ROW}, library=False)["q"], 2 * x
    )


def test_what_stands_in_an_older_graph_stays() -> None:
    model = model_of(
        "(float[N,3] x, int64[N] y) => (float o) { o = SoftmaxCrossEntropyLoss(x, y) }", opset=17
    )
    model.graph.metadata_props.add(key="k", value="v")
    scale = model.graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names
    scale.add(key="SCALE_TENSOR", value="o")
    fused = assert_same(model, y=ROW).graph
    assert [entry.value for entry in fused.metadata_props] == ["v"]
    assert [entry.tensor_name for entry in fused.quantization_annotation] == ["x"]


@pytest.mark.parametrize("opset", [17, 19])
def test_what_would_get_lost_is_refused(opset: int) -> None:
    text = "(float[N,3] x, int64[N] y) => (float o) { o = SoftmaxCrossEntropyLoss(x, y) }"
    model = model_of(text, opset=opset)
    model.training_info.add()
    with pytest.raises(onnxloss.LossError, match="the model has training_info; expected none"):
        onnxloss.fuse(model)
    model = model_of(text.replace("(x, y)", "(q, y)").replace("{", "{ q = Mul(x, k)"), opset=opset)
    values = helper.make_tensor("k", TensorProto.FLOAT, [1], [2.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [1])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))
    with pytest.raises(onnxloss.LossError, match="the model has sparse_initializer; expected none"):
        onnxloss.fuse(model)


def test_names_within_branches_are_taken() -> None:
    branch = "(float[N,3] r) {{ [{0}a] {0} = Exp(x) [{0}b] r = Neg({0}) }}"
    for name in ("val_0", "val_1", "val_2", "val_3"):
        then = branch.format(name).replace("(float", "then () => (float", 1)
        other = then.replace("then", "other").replace(" r", " s").replace(name, "kept")
        model = model_of(
            "(float[N,3] x, int64[N,1] y, bool[1] c) => (float[N,1] o, float[N,3] q)"
            f"{{ [n] cc = Squeeze(c) [m] q = If (cc) <then_branch = {then}, else_branch = {other}>"
            f" {LOSS} }}"
        )
        assert_same(model, y=COLUMN, c=np.array([True]))


def test_a_scalar_condition_and_nodes_without_names() -> None:
    model = model_of(
        "(float[N,3] x, int64[N,1] y, bool c) => (float[N,1] o, float[N,3] q)"
        "{ q = If (c) <then_branch = a () => (float[N,3] r) { r = Exp(x) },"
        f" else_branch = b () => (float[N,3] s) {{ s = Neg(x) }}> {LOSS} }}"
    )
    assert_same(model, y=COLUMN, c=np.array(False))


def test_a_scan_beside_the_loss() -> None:
    model = model_of(
        "(float[N,3] x, int64[N,1] y, float[T,3] w) => (float[N,1] o, float[3] q)"
        "<float[3] z = {0, 0, 0}>"
        "{ q = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] xi) => (float[3] so)"
        f" {{ so = Add(s, xi) }}> (z, w) {LOSS} }}"
    )
    assert_same(model, y=COLUMN, w=np.ones((2, 3), np.float32))


def test_a_loss_that_meets_itself() -> None:
    assert_same(
        model_of(f"(float[N,3] x, int64[N,1] y) => (float[N,1] o) {{ {GATHERED} o = Mul(g, g) }}"),
        y=COLUMN,
    )
    with pytest.raises(onnxloss.LossError, match="no loss that can be replaced"):
        onnxloss.fuse(
            model_of(
                "(float[N,3] x) => (float[N] o) <int64[1] a = {1}> { l = LogSoftmax <axis = 1> (x)"
                " m = Mul(l, l) o = ReduceSum <keepdims = 0> (m, a) }"
            )
        )


def test_an_output_whose_type_does_not_follow() -> None:
    model = model_of(
        "(float[N,3] x, int64[N] y) => (float o, float[N,3] q)"
        "{ h = com.microsoft.Gelu(x) q = Identity(h) o = SoftmaxCrossEntropyLoss(x, y) }"
    )
    assert_same(model, y=ROW)


def test_a_part_of_the_shape_of_a_loss() -> None:
    model = model_of(
        "(float[N,5,3] x, int64[N,5,1] y) => (float[N,5] o, int64[1] s) <int64[1] a = {2}>"
        "{ l = LogSoftmax <axis = 2> (x) g = GatherElements <axis = 2> (l, y) n = Neg(g)"
        " o = Squeeze(n, a) s = Shape <end = 1> (o) }"
    )
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    assert_same(model, x=x, y=np.arange(10).reshape(2, 5, 1) % 3)


def test_losses_of_different_classes_share_labels() -> None:
    second = "k = LogSoftmax <axis = 1> (w) h = GatherElements <axis = 1> (k, y) p = Neg(h)"
    model = model_of(
        f"(float[N,3] x, float[N,9] w, int64[N,1] y) => (float[N,1] o, float[N,1] p)"
        f"{{ {LOSS} {second} }}"
    )
    assert_same(model, y=COLUMN, w=np.ones((4, 9), np.float32))


@pytest.mark.parametrize(
    "text",
    [
        "(float[M,3] x, int64[1] y) => (float[M] o) <int64[1] a = {1}, int64 d = {3},"
        " float[2] v = {0, 1}> { l = LogSoftmax <axis = 1> (x) h = OneHot <axis = 1> (y, d, v)"
        " m = Mul(l, h) s = ReduceSum <keepdims = 0> (m, a) o = Neg(s) }",
        f"(float[M,3] x, int64[1,1] y) => (float[1,1] o) {{ {LOSS} }}",
    ],
    ids=["one-hot", "GatherElements"],
)
def test_one_label_of_many_rows_is_refused(text: str) -> None:
    with pytest.raises(onnxloss.LossError, match="no loss that can be replaced"):
        onnxloss.fuse(model_of(text))
