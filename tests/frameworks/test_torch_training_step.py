# SPDX-License-Identifier: MIT
"""onnxloss.torch.training_step against PyTorch's own training, and where torch.onnx breaks."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

import onnxloss  # noqa: E402
from onnxloss import torch as onnxloss_torch  # noqa: E402
from onnxloss.training import TrainingLoop, trained_model  # noqa: E402
from tests.frameworks.torch_modules import STEPS, TASKS, Block, perceptron  # noqa: E402
from tests.runtime import make_session, run_session  # noqa: E402

# PyTorch's own remarks while it traces.
pytestmark = pytest.mark.filterwarnings("ignore")

OPTIMIZERS: dict[str, tuple[float, dict[str, Any], Any]] = {
    "sgd": (0.02, {"momentum": 0.9, "weight_decay": 0.01}, torch.optim.SGD),
    "adamw": (0.003, {"weight_decay": 0.05}, torch.optim.AdamW),
}
ROWS = [{0: torch.export.Dim("N")}]
# A sum over the batch has larger steps.
SUM = 0.2


@cache
def step_of(name: str, optimizer: str) -> onnx.ModelProto:
    task, settings = TASKS[name], OPTIMIZERS[optimizer][1]
    return onnxloss_torch.training_step(
        task.module(),
        task.criterion,
        [task.inputs()],
        optimizer,
        input_names=["x"],
        dynamic_shapes=ROWS,
        **settings,
    )


@cache
def forward_of(name: str) -> onnx.ModelProto:
    task = TASKS[name]
    return onnxloss_torch.forward_model(
        task.module(), [task.inputs()], input_names=["x"], dynamic_shapes=ROWS
    )


@cache
def torch_training(name: str, optimizer: str) -> tuple[list[float], nn.Module]:
    task, (rate, settings, kind) = TASKS[name], OPTIMIZERS[optimizer]
    module = task.module()
    update = kind(module.parameters(), lr=rate * (SUM if name == "convnet" else 1), **settings)
    losses = []
    for x, labels in task.batches():
        loss = task.criterion(module(x), labels)
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    return losses, module


@pytest.mark.parametrize("library", [False, True], ids=["body", "library"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", TASKS)
def test_training_equals_torch(name: str, optimizer: str, library: bool) -> None:
    step, forward, task = step_of(name, optimizer), forward_of(name), TASKS[name]
    calls = [node.op_type for node in step.graph.node if node.domain]
    assert calls == ["SoftmaxCrossEntropyLossAndGrad"]
    loop = TrainingLoop(make_session(step, library=library), onnxloss.initial_state(step, forward))
    rate = np.array(OPTIMIZERS[optimizer][0] * (SUM if name == "convnet" else 1), np.float32)
    losses = [
        loop.step({"x": x.numpy(), "labels": labels.numpy(), "learning_rate": rate})
        for x, labels in task.batches()
    ]
    wanted, module = torch_training(name, optimizer)
    scale = max(1.0, max(wanted) / 10)
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-5 * scale)

    # Parameters and buffers too, and both ways back: into a module, and into a model.
    state = loop.state
    changed = {name for name, _ in module.named_parameters()}
    changed |= {name for name, _ in module.named_buffers()} - {"positions"}
    for entry in changed:
        np.testing.assert_allclose(
            state[entry],
            module.get_parameter(entry).detach()
            if entry not in dict(module.named_buffers())
            else module.get_buffer(entry),
            rtol=0,
            atol=2e-5,
            err_msg=entry,
        )
    x = task.inputs(4)
    module.eval()
    expected = module(x).detach().numpy()
    module.train()
    fresh = task.make().eval()
    if name == "language model":
        fresh.positions = module.positions
    onnxloss_torch.load_state(fresh, state)
    np.testing.assert_allclose(fresh(x).detach(), expected, rtol=0, atol=1e-4)
    trained = make_session(trained_model(forward, state), library=False)
    logits = run_session(trained, {"x": x.numpy()})["logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_state_has_the_modules_names_and_tied_weights_once() -> None:
    step = step_of("language model", "sgd")
    names = [value.name for value in step.graph.input]
    assert names[:3] == ["x", "labels", "learning_rate"]
    parameters = [name for name, _ in TASKS["language model"].module().named_parameters()]
    assert names[3 : 3 + len(parameters)] == parameters
    assert "tokens.weight" in names and "head.weight" not in names
    assert "positions" not in names, "a buffer that does not change is a constant"
    batch_norm = {value.name for value in step_of("batch norm", "sgd").graph.input}
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"} <= batch_norm


def test_equal_parameters_stay_apart() -> None:
    """torch.onnx's optimizer merges the two norms' weights, and their biases."""
    module = nn.Sequential(Block(causal=False), nn.Flatten(), nn.Linear(16 * 3, 4))
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), [torch.randn(2, 3, 16)])
    names = {value.name for value in step.graph.input}
    assert {"0.norm1.weight", "0.norm2.weight", "0.norm1.bias", "0.norm2.bias"} <= names


def test_a_small_epsilon_is_kept() -> None:
    """torch.onnx's optimizer takes 1e-8 for 0: a gradient of 0 would make AdamW's update nan."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4, eps=1e-9))
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), [torch.zeros(3, 8)], "adamw")
    forward = onnxloss_torch.forward_model(module, [torch.zeros(3, 8)])
    loop = TrainingLoop(make_session(step, library=False), onnxloss.initial_state(step, forward))
    name = step.graph.input[0].name
    feeds = {
        name: np.zeros((3, 8), np.float32),
        "labels": np.array([0, 1, 2]),
        "learning_rate": np.array(0.1, np.float32),
    }
    # With all inputs 0 the weight has no gradient, and with all weights equal the norm no variance.
    loop.step(feeds)
    assert all(np.isfinite(array).all() for array in loop.state.values())


def test_frozen_parameters_are_constants() -> None:
    module = perceptron()
    module[0].weight.requires_grad_(False)
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), [torch.randn(3, 8)])
    names = {value.name for value in step.graph.input}
    assert "0.weight" not in names and {"0.bias", "2.weight", "2.bias"} <= names
    assert "0.weight" in {tensor.name for tensor in step.graph.initializer}


def test_dropout_draws_anew_in_each_step() -> None:
    module = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 5))
    inputs = torch.randn(16, 8)
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), [inputs], input_names=["x"])
    forward = onnxloss_torch.forward_model(module, [inputs])
    loop = TrainingLoop(make_session(step, library=False), onnxloss.initial_state(step, forward))
    labels = np.arange(16) % 5
    still = {"x": inputs.numpy(), "labels": labels, "learning_rate": np.array(0.0, np.float32)}
    assert len({loop.step(still) for _ in range(5)}) == 5
    assert np.isfinite(loop.step({**still, "learning_rate": np.array(0.3, np.float32)}))
    assert not any("Random" in node.op_type for node in forward.graph.node)


def test_options_of_training_steps_are_taken() -> None:
    """Clipping equals torch's over a few steps."""
    torch.manual_seed(1)
    module, inputs = perceptron(), torch.randn(6, 8)
    labels = torch.arange(6) % 5
    step = onnxloss_torch.training_step(
        module, nn.CrossEntropyLoss(), [inputs], "adam", max_norm=0.05, input_names=["x"]
    )
    forward = onnxloss_torch.forward_model(module, [inputs])
    trainer = onnxloss.Trainer(step, forward, learning_rate=0.01)
    update = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(STEPS // 6):
        loss = nn.functional.cross_entropy(module(inputs), labels)
        update.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.05)
        update.step()
        got = trainer.step({"x": inputs.numpy(), "labels": labels.numpy()})
        assert got == pytest.approx(loss.item(), abs=1e-5)


def test_evaluation_is_in_eval_mode() -> None:
    """By the forward model that the Trainer is given: running statistics, and no dropout."""
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 5)
    ).train()
    inputs, labels = torch.randn(12, 8), torch.arange(12) % 5
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), [inputs], input_names=["x"])
    forward = onnxloss_torch.forward_model(module, [inputs], input_names=["x"])
    trainer = onnxloss.Trainer(step, forward, learning_rate=0.1)
    batch = {"x": inputs.numpy(), "labels": labels.numpy()}
    for _ in range(5):
        trainer.step(batch)
    onnxloss_torch.load_state(module, trainer.state)
    wanted = nn.functional.cross_entropy(module.eval()(inputs), labels).item()
    assert trainer.evaluate([batch]) == pytest.approx(wanted, abs=1e-5)


def test_the_modules_mode_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)).train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    inputs = [torch.randn(4, 8)]
    onnxloss_torch.forward_model(module, inputs)
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), inputs)
    assert [part.training for part in module] == [True, False, True]
    assert "1.running_mean" not in {value.name for value in step.graph.input}
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def _trained(module: nn.Module, batches: list[torch.Tensor], **settings: Any) -> onnxloss.Trainer:
    """Trains the module beside its training step, made of the first batch, to the same state."""
    step = onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), batches[:1], **settings)
    forward = onnxloss_torch.forward_model(module, batches[:1], **settings)
    trainer = onnxloss.Trainer(step, forward, learning_rate=0.1)
    update = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for x in batches:
        labels = torch.arange(len(x)) % 5
        loss = nn.functional.cross_entropy(module(x), labels)
        update.zero_grad()
        loss.backward()
        update.step()
        ours = trainer.step({step.graph.input[0].name: x.numpy(), "labels": labels.numpy()})
        assert ours == pytest.approx(loss.item(), abs=1e-5)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in trainer.state:
            wanted = tensor.detach()
            np.testing.assert_allclose(trainer.state[name], wanted, rtol=0, atol=1e-5, err_msg=name)
    return trainer


class _Shared(nn.Module):
    """A layer and a BatchNorm under two names each; it keeps what it computed."""

    def __init__(self) -> None:
        super().__init__()
        layer, norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.body = nn.Sequential(layer, nn.Tanh(), norm, layer, norm)
        self.layer, self.output, self.kept = layer, nn.Linear(8, 5), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = self.body(x)
        self.register_buffer("registered", self.kept.detach())
        return self.output(self.layer(self.kept))


@pytest.mark.parametrize("shapes", [None, ROWS], ids=["static", "dynamic"])
def test_a_shared_module_is_trained_as_one_and_left_as_it_was(shapes: Any) -> None:
    torch.manual_seed(0)
    module, x = _Shared(), torch.randn(6, 8)
    before = list(module.named_parameters(remove_duplicate=False))
    values = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    onnxloss_torch.training_step(module, nn.CrossEntropyLoss(), [x], dynamic_shapes=shapes)
    onnxloss_torch.forward_model(module, [x], dynamic_shapes=shapes)
    after = list(module.named_parameters(remove_duplicate=False))
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(before, after, strict=True))
    assert module.kept is None and values.keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, values[name]) for name, tensor in module.state_dict().items())
    trainer = _trained(module, [x] * 3, dynamic_shapes=shapes)
    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert trainer.state.keys() == names - {"registered"}


class _Named(nn.Module):
    """What is its own and what it is given is called as torch.onnx calls the operators' values."""

    def __init__(self) -> None:
        super().__init__()
        self.t, self.mm = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 5))
        self.dlogits = nn.Parameter(torch.randn(5))
        self.register_buffer("mean", torch.randn(8))

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return (view.view(-1, 8) - self.mean - view.mean()) @ self.t.t() @ self.mm + self.dlogits


def test_a_name_of_torch_onnx_is_free_for_the_module() -> None:
    torch.manual_seed(0)
    trainer = _trained(_Named(), [torch.randn(6, 8)])
    assert trainer.state.keys() == {"t", "mm", "dlogits"}


class _Teacher(nn.Module):
    """A moving average of the trained layer, which the forward pass keeps in a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Linear(8, 5)
        self.teacher = nn.Linear(8, 5).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.teacher.weight.lerp_(self.trained.weight, 0.5)
        return self.trained(x) + self.teacher(x)


def test_a_frozen_parameter_that_the_forward_pass_changes_is_state() -> None:
    torch.manual_seed(0)
    trainer = _trained(_Teacher(), [torch.randn(6, 8)] * 3)
    assert "teacher.weight" in trainer.state and "teacher.bias" not in trainer.state


class _Windows(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).unfold(1, 3, 2).sum(-1)


def test_windows_that_overlap() -> None:
    torch.manual_seed(0)
    _trained(_Windows(8, 9), [torch.randn(4, 8)] * 3)


class _Masked(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits * logits[logits > 0].mean() / (x > 0).nonzero().shape[0]


def test_sizes_that_depend_on_values_are_those_of_each_batch() -> None:
    torch.manual_seed(0)
    _trained(_Masked(8, 5), list(torch.randn(3, 6, 8)))


class _Clamped(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


class _Data(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data = self.weight.data / 2
        return super().forward(x)


class _Untied(nn.Linear):
    """A buffer in two places, of which one gets another."""

    def __init__(self) -> None:
        super().__init__(8, 5)
        self.register_buffer("one", torch.zeros(5))
        self.register_buffer("other", self.one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.other = self.other + 1
        return super().forward(x) + self.one


class _Tuple(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


class _Unused(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 5)
        self.unused = nn.Parameter(torch.zeros(3))


class _Logits(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 5)
        self.logits = nn.Parameter(torch.zeros(5))


class _List(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.tolist()[0][0] > 0 else super().forward(-x)


class _Array(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * float(np.sign(x.numpy()).sum()))


class _Pool(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.avg_pool2d(x.unflatten(1, (1, 2, 4)), 2, divisor_override=3)
        return super().forward(pooled.flatten(1))


class _Upsampled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)[:, None, None]
        return nn.functional.interpolate(logits, scale_factor=2.0, mode="bilinear").mean((1, 2))


class _Branch(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _Tuple(8, 5), "module's output is .tuple.; expected one tensor"),
        (_Unused, 'does not depend on the parameter "unused"'),
        (_Logits, 'named "logits", as the model.s output; expected another name'),
        (lambda: _Clamped(8, 5), 'changes the parameter "weight" in place, .*; expected it to'),
        (lambda: _Data(8, 5), 'gives "weight" other data; expected it to change buffers in place'),
        (_Untied, 'gives "other" other data; expected it to change buffers in place'),
        (lambda: _List(8, 5), "cannot trace or export the module"),
        (lambda: _Array(8, 5), "cannot trace or export the module"),
        (lambda: _Pool(2, 5), "avg_pool2d: divisor_override is 3; expected None: torch.onnx drops"),
        (lambda: _Upsampled(8, 5), "upsample_bilinear2d_backward.*; expected operators that torch"),
        (
            lambda: torch.compile(nn.Linear(8, 5)),
            "; expected modules that are not compiled: .*_mod",
        ),
        (lambda: _Branch(8, 5), "cannot trace or export the module"),
        (lambda: nn.Linear(8, 5).half(), 'dtype of "weight" is torch.float16; expected float32'),
        (lambda: nn.Linear(8, 5).requires_grad_(False), "no parameter has requires_grad"),
        (lambda: nn.functional.relu, 'module is "function"; expected a torch.nn.Module'),
    ],
    ids=[
        *("tuple", "unused", "logits", "clamped", "data", "untied", "list", "array", "pool"),
        *("upsampled", "compiled", "branch", "half", "frozen", "function"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Any, message: str) -> None:
    with pytest.raises(onnxloss.LossError, match=message):
        onnxloss_torch.training_step(make(), nn.CrossEntropyLoss(), [torch.randn(4, 8)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_names": ["x", "y"]}, "input_names is .*; expected 1 names"),
        ({"dynamic_shapes": {"y": {}}}, r"dynamic_shapes is \['y'\]; expected names among"),
        ({"dynamic_shapes": []}, "dynamic_shapes is .*; expected one entry for each"),
        ({"optimizer": "lion"}, "optimizer is .lion."),
        ({"momentum": -1.0}, "momentum is -1.0"),
        ({"input_names": ["logits"]}, r"input_names is \['logits'\]; expected names once each"),
        ({"parameters": ["0.weight"]}, "parameters is given; expected none: requires_grad says"),
        ({"opset_version": 18}, "opset_version is 18; expected 19 or newer"),
        ({"example_inputs": torch.zeros(4, 8)}, 'example_inputs is "Tensor"; expected a list'),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxloss.LossError, match=message):
        onnxloss_torch.training_step(
            perceptron(),
            nn.CrossEntropyLoss(),
            **{"example_inputs": [torch.randn(4, 8)], **settings},
        )


def test_a_state_of_another_module_is_refused() -> None:
    with pytest.raises(onnxloss.LossError, match=r'"0.weight" in the state is None; expected'):
        onnxloss_torch.load_state(perceptron(), {})


def test_the_example_runs() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "torch_to_stock_ort.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy in PyTorch " in done.stdout
