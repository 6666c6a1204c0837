# SPDX-License-Identifier: MIT
"""Trainer: trains as the bare loop does, evaluates, saves, goes on bit for bit."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxloss
from onnxloss import Trainer, training_step
from onnxloss.training import TrainingLoop, initial_state, schedules
from tests.forward_models import CONFIG, Arrays, batch_norm_net, mlp, put_before_logits
from tests.runtime import BFLOAT16, make_session, run_session

ROOT = Path(__file__).parent.parent
RATE = schedules.cosine(0.02, 40, warmup_steps=5)


def batches(epoch: int = 0, count: int = 7) -> list[Arrays]:
    random = np.random.default_rng(epoch)
    return [
        {
            "x": random.normal(size=(16, 8)).astype(np.float32),
            "labels": random.integers(0, 5, 16),
        }
        for _ in range(count)
    ]


def make_trainer(forward: onnx.ModelProto | None = None, **settings: object) -> Trainer:
    forward = forward or mlp()
    settings = {"optimizer": "adamw", **settings}
    return Trainer(training_step(forward, CONFIG, **settings), forward, learning_rate=RATE)


def assert_equal(left: Trainer, right: Trainer) -> None:
    assert left.losses == right.losses and left.evaluations == right.evaluations
    assert (left.steps, left.epoch, left.batch) == (right.steps, right.epoch, right.batch)
    assert left.state.keys() == right.state.keys()
    for name, array in left.state.items():
        np.testing.assert_array_equal(right.state[name], array, err_msg=name)


def test_it_trains_as_the_loop_does() -> None:
    trainer = make_trainer()
    trainer.fit(batches, epochs=2, progress=False)
    step = training_step(mlp(), CONFIG, optimizer="adamw")
    loop = TrainingLoop(make_session(step, library=True), initial_state(step, mlp()))
    feeds = [*batches(0), *batches(1)]
    rates = [np.array(RATE(index), np.float32) for index in range(len(feeds))]
    losses = [
        loop.step({**feed, "learning_rate": rate}) for feed, rate in zip(feeds, rates, strict=True)
    ]
    assert trainer.losses == losses and trainer.steps == 14 and trainer.epoch == 2
    for name, array in loop.state.items():
        np.testing.assert_array_equal(trainer.state[name], array)


def test_the_rate_follows_the_updates_not_the_micro_steps() -> None:
    seen: list[int] = []

    def rate(update: int) -> float:
        seen.append(update)
        return 0.1

    step = training_step(mlp(), CONFIG, accumulation_steps=3)
    Trainer(step, mlp(), learning_rate=rate).fit(batches(), progress=False)
    assert seen == [0, 0, 0, 1, 1, 1, 2]


def test_schedules() -> None:
    warm = schedules.linear_warmup(0.4, 4)
    assert [warm(t) for t in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    cosine = schedules.cosine(1.0, 4, final=0.2)
    wanted = [0.2 + 0.4 * (1 + math.cos(math.pi * t / 4)) for t in range(5)]
    assert [cosine(t) for t in range(7)] == pytest.approx([*wanted, 0.2, 0.2])
    both = schedules.cosine(1.0, 4, warmup_steps=2)
    assert [both(t) for t in range(4)] == pytest.approx([0.5, 1, 1, 0.5 + 0.5 * 0.5**0.5])
    decay = schedules.step_decay(0.8, 3, 0.5)
    assert [decay(t) for t in range(7)] == pytest.approx([*[0.8] * 3, *[0.4] * 3, 0.2])
    for make in (
        lambda: schedules.cosine(1.0, 0),
        lambda: schedules.linear_warmup(-1.0, 3),
        lambda: schedules.step_decay(float("nan"), 3),
    ):
        with pytest.raises(onnxloss.LossError, match="expected a"):
            make()


@pytest.mark.parametrize("stop", [3, 7, 12])
@pytest.mark.parametrize(
    "settings",
    [{"accumulation_steps": 2, "max_norm": 1.0}, {"optimizer": "sgd", "loss_scale": 8.0}],
)
def test_a_checkpoint_goes_on_bit_for_bit(stop: int, settings: dict, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    straight = make_trainer(**settings)
    straight.fit(batches, epochs=3, held_out=batches(9), progress=False)

    def until_stop(epoch: int) -> Iterator[Arrays]:
        for index, batch in enumerate(batches(epoch)):
            if epoch * 7 + index == stop:
                raise RuntimeError("stopped")
            yield batch

    first = make_trainer(**settings)
    with pytest.raises(RuntimeError, match="stopped"):
        first.fit(
            until_stop,
            epochs=3,
            held_out=batches(9),
            checkpoint=path,
            checkpoint_every=1,
            progress=False,
        )
    second = make_trainer(**settings)
    second.load(path)
    assert second.steps == stop
    second.fit(batches, epochs=3, held_out=batches(9), progress=False)
    assert_equal(second, straight)


def test_ctrl_c_saves_and_fit_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    straight, trainer = make_trainer(), make_trainer()
    straight.fit(batches, epochs=3, progress=False)
    before = signal.getsignal(signal.SIGINT)

    def interrupting(epoch: int) -> Iterator[Arrays]:
        for index, batch in enumerate(batches(epoch)):
            if (epoch, index) == (1, 2):
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(interrupting, epochs=3, checkpoint=path, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert (trainer.epoch, trainer.batch, trainer.steps) == (1, 3, 10)
    resumed = make_trainer()
    resumed.load(path)
    assert_equal(resumed, trainer)
    for each in (resumed, trainer):
        each.fit(batches, epochs=3, progress=False)
        assert_equal(each, straight)


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from tests.test_trainer import batches, make_trainer
        trainer = make_trainer()
        def noted(epoch):
            for batch in batches(epoch):
                print(trainer.steps, flush=True)
                yield batch
        trainer.fit(noted, epochs=10**6, checkpoint=sys.argv[1], checkpoint_every=5, progress=False)
        """
    )
    path = tmp_path / "run.safetensors"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= 50:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    resumed, straight = make_trainer(), make_trainer()
    resumed.load(path)
    assert resumed.steps >= 49
    for _ in range(resumed.epoch):
        straight.fit(batches, epochs=straight.epoch + 1, progress=False)
    for batch in batches(straight.epoch)[: resumed.batch]:
        straight.step(batch)
    assert straight.losses == resumed.losses
    np.testing.assert_array_equal(straight.state["w1"], resumed.state["w1"])


def test_evaluation_leaves_the_state_and_equals_the_loss() -> None:
    trainer = make_trainer()
    trainer.fit(batches, progress=False)
    before, held_out = trainer.state, batches(5, 2)
    held_out[1] = {name: array[:4] for name, array in held_out[1].items()}
    loss = trainer.evaluate(held_out)
    for name, array in trainer.state.items():
        np.testing.assert_array_equal(array, before[name])
    model = onnxloss.append_to(trainer.trained_model(), CONFIG)
    session = make_session(model, library=False)
    first, second = (float(run_session(session, batch)["loss"]) for batch in held_out)
    assert loss == pytest.approx((16 * first + 4 * second) / 20, rel=1e-5)


@pytest.mark.parametrize("start", ["forward model", "state"])
def test_evaluation_uses_running_statistics(start: str) -> None:
    forward = batch_norm_net()
    step = training_step(forward, CONFIG)
    first = forward if start == "forward model" else initial_state(step, forward)
    trainer = Trainer(step, first, learning_rate=0.1)
    random = np.random.default_rng(0)
    feeds = [
        {"x": random.normal(2, 3, (n, 2, 6, 6)).astype(np.float32), "labels": np.arange(n) % 5}
        for n in (9, 4, 1)
    ]
    trainer.fit(feeds, progress=False)
    model = onnxloss.append_to(trainer.trained_model(forward), CONFIG)
    wanted = float(run_session(make_session(model, library=False), feeds[2])["loss"])
    assert trainer.evaluate(feeds[2:]) == pytest.approx(wanted, rel=1e-5)


def test_evaluation_is_of_the_forward_model_that_was_given() -> None:
    """A step may be made of another graph of the same parameters, with dropout for example."""
    trained = mlp(opset=21)
    put_before_logits(trained.graph, helper.make_node("Add", ["before", "before"], ["logits"]))
    step = training_step(trained, CONFIG, loss_scale=64.0)
    trainer = Trainer(step, mlp(opset=13), learning_rate=0.1)
    (batch,) = batches(count=1)
    model = onnxloss.append_to(mlp(), CONFIG)
    wanted = float(run_session(make_session(model, library=False), batch)["loss"])
    assert trainer.evaluate([batch]) == pytest.approx(wanted, rel=1e-6)
    other = mlp()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "scores"
    with pytest.raises(onnxloss.LossError, match=r'forward model is "forward"; expected logits'):
        Trainer(step, other, learning_rate=0.1).evaluate([batch])


def test_bfloat16_logits_train() -> None:
    forward = mlp()
    put_before_logits(
        forward.graph, helper.make_node("Cast", ["before"], ["logits"], to=TensorProto.BFLOAT16)
    )
    forward.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    step = training_step(forward, config, loss_scale=2.0**16)
    data = batches()
    wide = Trainer(training_step(mlp(), config), mlp(), learning_rate=0.1)
    wide.fit(data, epochs=6, progress=False)
    trainer = Trainer(step, forward, learning_rate=0.1)
    trainer.fit(data, epochs=6, progress=False)
    np.testing.assert_allclose(trainer.losses, wide.losses, atol=0.03)
    assert trainer.losses[-1] < trainer.losses[0] and trainer.state["w1"].dtype == np.float32
    assert trainer.evaluate(data) == pytest.approx(wide.evaluate(data), abs=0.03)


def test_bfloat16_inputs_are_fed() -> None:
    forward = mlp()
    forward.graph.node.insert(0, helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT))
    forward.graph.node[1].input[0] = "wide"
    forward.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    data = [{**batch, "x": batch["x"].astype(BFLOAT16)} for batch in batches()]
    trainer, wide = make_trainer(forward), make_trainer()
    trainer.fit(data, progress=False)
    wide.fit([{**b, "x": b["x"].astype(np.float32)} for b in data], progress=False)
    assert trainer.losses == wide.losses
    assert trainer.evaluate(data) == wide.evaluate([{**b, "x": b["x"].astype("f4")} for b in data])


def test_bfloat16_buffers_are_kept(tmp_path: Path) -> None:
    forward = mlp()
    seen = numpy_helper.from_array(np.zeros(5, BFLOAT16), "seen")
    forward.graph.initializer.append(seen)
    put_before_logits(
        forward.graph,
        helper.make_node("Identity", ["before"], ["logits"]),
        helper.make_node("Constant", [], ["rows"], value_ints=[0]),
        helper.make_node("ReduceMean", ["before", "rows"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["seen"], ["old"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["old", "mean"], ["new"]),
        helper.make_node("Cast", ["new"], ["next"], to=TensorProto.BFLOAT16),
    )
    step = training_step(forward, CONFIG, buffers={"seen": "next"})
    straight = Trainer(step, forward, learning_rate=0.1)
    straight.fit(batches, epochs=2, progress=False)
    first = Trainer(step, forward, learning_rate=0.1)
    first.fit(batches, epochs=1, checkpoint=tmp_path / "run", progress=False)
    assert first.state["seen"].dtype == BFLOAT16 and first.state["seen"].any()
    second = Trainer(step, forward, learning_rate=0.1)
    second.load(tmp_path / "run")
    second.fit(batches, epochs=2, progress=False)
    assert_equal(second, straight)
    trained = {tensor.name: tensor for tensor in second.trained_model().graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(trained["seen"]), second.state["seen"])


def test_the_guides_example_runs(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    (tmp_path / "models").symlink_to(ROOT / "models")
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("models", "run.safetensors", "trained.onnx", "losses.png"),
    }


def test_it_plots_its_losses(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    trainer = make_trainer()
    with pytest.raises(onnxloss.LossError, match="there are no losses yet"):
        trainer.plot(tmp_path / "none.png")
    trainer.fit(batches, epochs=9, held_out=batches(9), progress=False)
    trainer.plot(tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_the_progress_bar_tells_epoch_and_loss(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    trainer = make_trainer()
    trainer.fit(batches, epochs=2, held_out=batches(9))
    *_, last = capsys.readouterr().err.strip().split("\r")
    held_out = trainer.evaluations[-1][1]
    assert "14step" in last
    assert f"epoch 2/2, loss {trainer.losses[-1]:.4g}, held out {held_out:.4g}" in last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, r'"b1.exp_avg" in .* is float32 of shape \(16,\); expected missing'),
        ({"weight_decay": 0.5}, "weight_decay in .* is 0.01; expected 0.5, as in this training"),
        ({"accumulation_steps": 2}, r'"b1.gradient_sum" in .* is missing; expected float32 of sha'),
    ],
)
def test_it_refuses_another_steps_checkpoint(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    make_trainer().save(path)
    other = make_trainer(**change)
    before = other.state
    with pytest.raises(onnxloss.LossError, match=message):
        other.load(path)
    for name, array in other.state.items():
        np.testing.assert_array_equal(array, before[name])


def refused() -> dict[str, tuple[Callable[[], object], str]]:
    step = training_step(mlp(), CONFIG)
    trainer = Trainer(step, mlp(), learning_rate=0.1)
    unbound = Trainer(step, initial_state(step, mlp()), learning_rate=0.1)
    once = iter(batches())
    (batch,) = batches(count=1)
    x, labels = batch["x"], batch["labels"]

    def rated(rate: object) -> Trainer:
        return Trainer(step, mlp(), learning_rate=lambda t: rate)

    return {
        "model": (lambda: Trainer(mlp(), mlp(), learning_rate=0.1), "expected one of training_st"),
        "rate": (lambda: Trainer(step, mlp(), learning_rate=-1), "learning_rate is -1; expected a"),
        "start": (
            lambda: Trainer(step, {}, learning_rate=0.1),
            r'"b1"\] is missing; expected thos',
        ),
        "path": (lambda: Trainer("s.onnx", mlp(), learning_rate=0.1), 'step is "s.onnx"; expected'),
        "path of start": (
            lambda: Trainer(step, "f", learning_rate=0.1),
            'start is "f"; expected th',
        ),
        "rate none": (lambda: rated(None).step(batch), "learning_rate of update 0 is None; expec"),
        "rate nan": (lambda: rated(math.nan).step(batch), "learning_rate of update 0 is nan; expe"),
        "then": (lambda: schedules.linear_warmup(1.0, 2, 0.1), "then is 0.1; expected a function"),
        "pair": (lambda: trainer.fit([(x, labels)]), 'a batch is "tuple"; expected a dictionary'),
        "one batch": (lambda: trainer.fit(batch), 'batches is "dict"; expected an iterable of bat'),
        "no batches": (lambda: trainer.fit(None), 'batches is "NoneType"; expected an iterable'),
        "dtype": (
            lambda: trainer.step({"x": x.astype(np.float64), "labels": labels}),
            'dtype of "x" is "float64"; expected float32',
        ),
        "label dtype": (
            lambda: trainer.step({"x": x, "labels": labels.astype(np.int32)}),
            'dtype of "labels" is "int32"; expected int64',
        ),
        "shape": (
            lambda: trainer.step({"x": x[:, 1:], "labels": labels}),
            r'shape of "x" is \[16, 7\]; expected \[N, 8\]',
        ),
        "rank": (
            lambda: trainer.evaluate([{"x": x[None], "labels": labels}]),
            r'shape of "x" is \[1, 16, 8\]; expected \[N, 8\]',
        ),
        "epochs": (lambda: trainer.fit([], epochs=1.5), "epochs is 1.5; expected an integer of at"),
        "part": (
            lambda: trainer.fit([], checkpoint="c", checkpoint_every=1.5),
            "checkpoint_every is 1.5; expected None, or an integer",
        ),
        "folder": (
            lambda: trainer.fit([batch], checkpoint="none/run"),
            'checkpoint is "none/run"; expected a file in a folder that exists',
        ),
        "held out": (
            lambda: trainer.fit([batch], epochs=2, held_out=once),
            'held_out is "list_iterator"; expected an iterable that can be read once more.',
        ),
        "batch": (lambda: trainer.step({"x": np.ones((1, 8))}), r"feeds is \['x', 'learning_rate'"),
        "once": (lambda: trainer.fit(once, epochs=2), 'batches is "list_iterator"; expected an'),
        "every": (lambda: trainer.fit([], checkpoint_every=3), "checkpoint_every is 3; expected N"),
        "nothing": (lambda: trainer.fit([]), "fit: batches is empty; expected a batch or more"),
        "empty": (lambda: trainer.evaluate([]), "batches is empty; expected a batch or more"),
        "lacks": (lambda: trainer.evaluate([{"labels": labels}]), r"batch is \['labels'\]; ex"),
        "forward": (lambda: unbound.trained_model(), "forward is None; expected the forward mode"),
    }


@pytest.mark.parametrize("what", refused())
def test_it_refuses(what: str) -> None:
    call, message = refused()[what]
    with pytest.raises(onnxloss.LossError, match=message):
        call()


def test_a_missing_checkpoint_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_trainer().load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        make_trainer().save(tmp_path / "none" / "run")
    assert os.listdir(tmp_path) == []
