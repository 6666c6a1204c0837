# SPDX-License-Identifier: MIT
"""Everything that a training step refuses, with the message that says what to do."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxloss
from onnxloss.training import TrainingLoop, initial_state, trained_model, training_step
from tests.forward_models import (
    CONFIG,
    add_parameter,
    convnet,
    mlp,
    model_of,
    put_before_logits,
    value,
)
from tests.runtime import make_session


def changed(change: Callable[[onnx.GraphProto], None]) -> onnx.ModelProto:
    model = mlp()
    change(model.graph)
    return model


def test_refuses_settings() -> None:
    none = onnxloss.from_torch("torch.nn.CrossEntropyLoss", reduction="none")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"config": none}, 'reduction is "none"; expected "mean" or "sum"'),
        ({"optimizer": "lion"}, 'optimizer is "lion"; expected sgd or adam or adamw'),
        ({"betas": (0.9, 0.99)}, "betas is not a hyperparameter of sgd; expected momentum, damp"),
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum is not a hyperparameter of adamw"),
        ({"nesterov": True}, "nesterov is True; expected False, or a momentum above 0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov is True; expected False"),
        ({"nesterov": 1}, "nesterov is 1; expected True or False"),
        ({"optimizer": "adam", "amsgrad": "yes"}, 'amsgrad is "yes"; expected True or False'),
        ({"max_norm": 0}, "max_norm is 0; expected a finite number above 0, or None"),
        ({"max_norm": float("inf")}, "max_norm is inf; expected a finite number above 0"),
        ({"loss_scale": -1.0}, "loss_scale is -1.0; expected a finite number above 0, or None"),
        ({"loss_scale": "dynamic"}, 'loss_scale is "dynamic"; expected a finite number above 0'),
        ({"accumulation_steps": 0}, "accumulation_steps is 0; expected an integer of at least 1"),
        ({"accumulation_steps": 2.0}, "accumulation_steps is 2.0; expected an integer"),
        ({"growth_interval": True}, "growth_interval is True; expected an integer of at least 1"),
        ({"frozen": ["w3"]}, r'frozen\[0\] is "w3"; expected a float initializer of the model'),
        ({"frozen": ["w1"], "parameters": ["w2"]}, "frozen is for parameters=None"),
        ({"frozen": "w1"}, 'frozen is "w1"; expected a list of float initializers'),
        ({"buffers": {"m": "h"}}, 'name of a buffer is "m"; expected an initializer'),
        ({"buffers": {"b1": "g"}}, r'buffers\["b1"\] is "g"; expected a value of the model'),
        ({"momentum": -0.1}, "momentum is -0.1; expected a finite number of at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; expected a finite number"),
        ({"optimizer": "adamw", "betas": (0.9, 1.0)}, "betas is .0.9, 1.0.; expected two numbers"),
        ({"optimizer": "adamw", "betas": 0.9}, "betas is 0.9; expected two numbers"),
        ({"optimizer": "adamw", "eps": "small"}, 'eps is "small"; expected a finite number'),
        ({"logits": "scores"}, 'logits is "scores"; expected .*logits'),
        ({"parameters": []}, r"parameters is \[\]; expected a list of float initializers"),
        ({"parameters": "w1"}, 'parameters is "w1"; expected a list of float initializers'),
        ({"parameters": ["w1", "w3"]}, r'parameters\[1\] is "w3"; expected .*w1, b1, w2, b2'),
        ({"parameters": ["w1", "w1"]}, r'parameters\[1\] is "w1"; expected each name once'),
        ({"labels": "learning_rate"}, 'is "learning_rate"; expected a name that is not taken'),
        ({"labels": "w1.new"}, 'is "w1.new"; expected a name that is not taken'),
        ({"buffers": ["b1"]}, 'buffers is "list"; expected a dictionary'),
        ({"model": "forward.onnx"}, 'model is "forward.onnx"; expected an onnx.ModelProto'),
        ({"config": "CrossEntropyLoss"}, 'config is "CrossEntropyLoss"; expected a LossConfig'),
        ({"model": training_step(mlp(), CONFIG)}, "model is a training step already"),
    ]
    for settings, message in cases:
        with pytest.raises(onnxloss.LossError, match=message):
            training_step(**{"model": mlp(), "config": CONFIG, **settings})


def integer_logits(graph: onnx.GraphProto) -> None:
    put_before_logits(graph, helper.make_node("Cast", ["before"], ["logits"], to=TensorProto.INT64))
    graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


def two_outputs(graph: onnx.GraphProto) -> None:
    graph.output.append(value("h", ["N", 16], TensorProto.FLOAT))


def without_gradient(graph: onnx.GraphProto) -> None:
    put_before_logits(
        graph,
        helper.make_node("Floor", ["rounded"], ["floor"]),
        helper.make_node("Add", ["before", "floor"], ["logits"]),
    )
    add_parameter(graph, "rounded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.ClearField("initializer"), r"parameters is \[\]; expected a list"),
        (lambda g: add_parameter(g, "idle"), 'does not depend on the parameter "idle"'),
        (without_gradient, 'does not depend on the parameter "rounded"'),
        (
            lambda g: g.initializer.append(numpy_helper.from_array(np.float32(2), "two")),
            'the initializer "two" is a scalar',
        ),
        (lambda g: add_parameter(g, "learning_rate"), '"learning_rate"; expected a name'),
        (lambda g: add_parameter(g, "w1.new"), '"w1.new"; expected a name that is not taken'),
        (two_outputs, "logits is None; expected an output of the model"),
        (integer_logits, "dtype.* is .*int64"),
    ],
)
def test_refuses_models(change: Callable[[onnx.GraphProto], None], message: str) -> None:
    with pytest.raises(onnxloss.LossError, match=message):
        training_step(changed(change), CONFIG)


def test_refuses_pooling_of_a_dynamic_size_and_says_what_to_do() -> None:
    forward = convnet("N", "AveragePool")
    forward.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(onnxloss.LossError, match=r"AveragePool .*update_model_dims"):
        training_step(forward, CONFIG)


def test_refuses_another_domains_operator_of_a_known_name() -> None:
    forward = mlp()
    forward.opset_import.append(helper.make_opsetid("com.example", 1))
    forward.graph.node[1].domain = "com.example"
    forward.graph.node[1].name = "activation"
    with pytest.raises(onnxloss.LossError, match=r"activation is com.example::Relu; expected oper"):
        training_step(forward, CONFIG)


def test_refuses_an_operator_without_derivative_rule() -> None:
    forward = mlp()
    put_before_logits(
        forward.graph,
        helper.make_node("StringNormalizer", ["before"], ["logits"], name="odd"),
    )
    with pytest.raises(onnxloss.LossError, match="no reverse rule for StringNormalizer"):
        training_step(forward, CONFIG)


def inner(op_type: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([inner("Pad", "h cut", "y")], "Pad with negative pads has no derivative here"),
        ([inner("Pad", "h pads q", "y")], 'Pad by its input "q" has no derivative'),
        ([inner("Slice", "h zero two axis", "y")], "Slice whose starts, ends, axes or steps are"),
        (
            [inner("ReduceSumSquare", "h", "y", noop_with_empty_axes=1)],
            "ReduceSumSquare with noop_with_empty_axes has no derivative",
        ),
        (
            [inner("OneHot", "zero two bounds", "o"), inner("MatMul", "o h2", "y")],
            'OneHot by its input "bounds" has no derivative',
        ),
        (
            [inner("Einsum", "h3", "y", equation="bij->bj")],
            'Einsum that sums over "h3", whose sizes are not all known',
        ),
        ([inner("Det", "h3", "y")], 'Det by its input "h3" has no derivative'),
        (
            [inner("LpPool", "h4", "y", kernel_shape=[2], pads=[1, 0])],
            "LpPool with pads has no derivative",
        ),
        ([inner("Dropout", "mask half true", "d"), inner("Mul", "h d", "y")], "its mask would be"),
    ],
)
def test_refuses_what_has_a_wrong_derivative(nodes: list[onnx.NodeProto], message: str) -> None:
    """What onnx-ad computes of these is not it, or leaves out a part."""
    constants = {
        "cut": [0, 0, 0, -1],
        "pads": [0, 0, 0, 1],
        "zero": [0],
        "two": [2],
        "half": np.float32(0.5),
        "true": np.array(True),
        "mask": np.ones((1, 4), np.float32),
        "of3": [0, 2, 2],
        "of4": [0, 1, -1],
        "rows": [-1, 2],
        "of2": [2, -1],
    }
    floats = {"p": np.ones((1, 4)), "q": np.array(0.5), "bounds": np.array([0.0, 1.0])}
    before = [
        inner("Mul", "x p", "h0"),
        inner("Mul", "h0 q", "h"),
        inner("ReduceSum", "bounds", "total", keepdims=0),
        inner("Mul", "h total", "h1"),
        inner("Reshape", "h1 of2", "h2"),
        inner("Reshape", "h1 of3", "h3"),
        inner("Reshape", "h1 of4", "h4"),
    ]
    inputs = [value("x", ["N", 4], TensorProto.FLOAT), value("axis", [1], TensorProto.INT64)]
    arrays = {name: array.astype(np.float32) for name, array in floats.items()}
    after = [inner("Reshape", "y rows", "z"), inner("Mul", "z total", "logits")]
    model = model_of([*before, *nodes, *after], inputs, ["M", 2], arrays)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    with pytest.raises(onnxloss.LossError, match=message):
        training_step(model, CONFIG, parameters=list(floats))


def test_random_masks_are_drawn_anew() -> None:
    nodes = [
        inner("Add", "x p", "h"),
        inner("Bernoulli", "chances", "b"),
        inner("Mul", "h b", "logits"),
    ]
    arrays = {"p": np.zeros((1, 2), np.float32), "chances": np.full((8, 2), 0.5, np.float32)}
    model = model_of(nodes, [value("x", [8, 2], TensorProto.FLOAT)], [8, 2], arrays)
    step = training_step(model, CONFIG, parameters=["p"])
    assert "Bernoulli" in [node.op_type for node in step.graph.node]


def test_refuses_a_buffer_s_value_of_another_type() -> None:
    nodes = [
        inner("MatMul", "x w", "z"),
        inner("Add", "z c", "next"),
        inner("Cast", "c", "wide", to=TensorProto.DOUBLE),
        inner("Sub", "z mean", "logits"),
    ]
    shapes = {"w": (4, 2), "mean": (2,), "c": (2,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    model = model_of(nodes, [value("x", [4, 4], TensorProto.FLOAT)], [4, 2], arrays)
    for becomes, found in (("next", r"next, float32 \[4, 2\]"), ("wide", r"wide, float64 \[2\]")):
        with pytest.raises(onnxloss.LossError, match=f"{found}.; expected float32 .2., as the"):
            training_step(model, CONFIG, parameters=["w"], buffers={"mean": becomes})


def test_refuses_running_statistics_as_parameters() -> None:
    forward = mlp()
    names = ["scale", "shift", "mean", "variance"]
    put_before_logits(
        forward.graph,
        helper.make_node("BatchNormalization", ["before", *names], ["logits"]),
    )
    for name in names:
        add_parameter(forward.graph, name)
    with pytest.raises(onnxloss.LossError, match='its input "mean" has no derivative'):
        training_step(forward, CONFIG)
    trained = ["w1", "b1", "w2", "b2", "scale", "shift"]
    step = training_step(forward, CONFIG, parameters=trained)
    assert list(initial_state(step, forward)) == trained


def test_refuses_a_moment_whose_name_is_taken() -> None:
    forward = mlp()
    forward.graph.node[0].output[0] = forward.graph.node[1].input[0] = "w1.exp_avg"
    with pytest.raises(onnxloss.LossError, match=r'"w1.exp_avg"; expected a name'):
        training_step(forward, CONFIG, optimizer="adamw")
    training_step(forward, CONFIG, optimizer="sgd")


def test_says_how_to_install_onnx_ad(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_onnx_ad(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("onnx_ad"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx_ad)
    with pytest.raises(onnxloss.LossError, match=r'pip install "onnxloss\[train\]"'):
        training_step(mlp(), CONFIG)


def test_initial_state_refuses_other_models() -> None:
    step = training_step(mlp(), CONFIG)
    with pytest.raises(onnxloss.LossError, match="expected one of training_step"):
        initial_state(mlp(), mlp())
    with pytest.raises(onnxloss.LossError, match='the forward model has no initializer "w1"'):
        initial_state(step, changed(lambda g: g.ClearField("initializer")))
    with pytest.raises(onnxloss.LossError, match=r'"w1" is float64 .*; expected float32'):
        initial_state(step, mlp(np.float64))


def test_trained_model_refuses_another_state() -> None:
    forward = mlp()
    state = initial_state(training_step(forward, CONFIG, optimizer="adamw"), forward)
    trained_model(forward, state)
    with pytest.raises(onnxloss.LossError, match='state is "w9"; expected an initializer'):
        trained_model(forward, {**state, "w9": state["w1"]})
    with pytest.raises(onnxloss.LossError, match=r'"b1" is float32 of shape \(5,\); expected'):
        trained_model(forward, {**state, "b1": state["b2"]})
    with pytest.raises(onnxloss.LossError, match=r'"b1" is float64 .*; expected float32'):
        trained_model(forward, {**state, "b1": state["b1"].astype(np.float64)})


def test_loop_refuses_another_state_or_feeds() -> None:
    forward = mlp()
    step = training_step(forward, CONFIG)
    session, state = make_session(step, library=False), initial_state(step, forward)
    with pytest.raises(onnxloss.LossError, match=r'state\["b2"\] is missing; expected those that'):
        TrainingLoop(session, {name: state[name] for name in ("w1", "b1", "w2")})
    with pytest.raises(onnxloss.LossError, match=r'state\["b1"\] is none of the step\'s states'):
        TrainingLoop(make_session(forward, library=False), state)
    with pytest.raises(onnxloss.LossError, match='dtype of "w1" is "float64"; expected float32'):
        TrainingLoop(session, {**state, "w1": state["w1"].astype(np.float64)})
    with pytest.raises(onnxloss.LossError, match=r'shape of "b1" is \[5\]; expected \[16\]'):
        TrainingLoop(session, {**state, "b1": state["b2"]})
    loop = TrainingLoop(session, state)
    with pytest.raises(onnxloss.LossError, match=r"feeds is \['x'\]; expected \['labels', 'lear"):
        loop.step({"x": np.zeros((1, 8), np.float32)})
