# SPDX-License-Identifier: MIT
"""What a loss of the operator set is: the dataclasses that every SPEC is written in."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

DOMAIN = "onnxloss"
OPSET_VERSION = 1

TYPES: Mapping[str, tuple[str, ...]] = {
    "T": ("float16", "bfloat16", "float32", "float64"),
    "S": ("float32", "float64"),
    "Tind": ("int32", "int64"),
}
"""Type variables: T the logits, S what the row is summed in (`stash_type`), Tind the labels."""


@dataclass(frozen=True)
class Port:
    """An input or output: its ONNX name, its type variable, its shape and its meaning."""

    name: str
    type: str
    shape: str
    doc: str
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """An attribute: its type is its default's, its legal values `choices` or `[minimum, maximum]`.

    A `derived` attribute follows from the configuration and the dtype: exporters write it, users
    do not set it.
    """

    name: str
    default: int | float | str
    doc: str
    choices: tuple[int | str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    derived: bool = False

    @property
    def allowed(self) -> str:
        """The legal values in words, as error messages and the reference print them."""
        if self.choices:
            return " or ".join(
                f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in self.choices
            )
        if self.minimum is not None and isinstance(self.default, int):
            return f"an integer in [{self.minimum}, {self.maximum}]"
        if self.minimum is not None:
            return f"a number in [{self.minimum:g}, {self.maximum:g}]"
        return {int: "an integer", float: "a number", str: "a string"}[type(self.default)]

    def accepts(self, value: Any) -> bool:
        """Whether `value` has the attribute's type and lies in its set."""
        kinds: Any = (int, float) if isinstance(self.default, float) else type(self.default)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if self.minimum is not None and self.maximum is not None:
            return bool(self.minimum <= value <= self.maximum)
        return not self.choices or value in self.choices


@dataclass(frozen=True)
class OpSpec:
    """One operator: what its schema, its documentation and its kernel agree on."""

    name: str
    doc: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: tuple[Attribute, ...]

    def outputs_with(self, optional: Container[str]) -> tuple[Port, ...]:
        """The outputs of a node that has these optional ones.

        None before the last is left out: ONNX Runtime cannot inline a function one of whose
        outputs the node has not.
        """
        wanted = [not port.optional or port.name in optional for port in self.outputs]
        return self.outputs[: len(wanted) - wanted[::-1].index(True)]


@dataclass(frozen=True)
class LossSpec:
    """One loss: its formula, its ports and attributes, and the onnxscript function that means it.

    `body` computes the loss and its gradient at once: it takes `dloss` before `inputs`, and beside
    the attributes one flag for each optional input, `has_<name>`, that says whether the node has
    it; it returns `(loss, dlogits, *results, *gradients)`. The function of each of the three
    operators below is cut out of it (`onnxloss.functions`). `results` are the outputs that a node
    may leave out, `gradients` those of them that only an operator with a gradient has; `drawn`
    names the optional inputs that the body draws where they are left out, and that the gradient
    alone must therefore get.
    """

    name: str
    summary: str
    formula: str
    inputs: tuple[Port, ...]
    attributes: tuple[Attribute, ...]
    edge_cases: tuple[str, ...]
    sources: tuple[str, ...]
    body: Any
    results: tuple[Port, ...] = field(default_factory=lambda: (LSE,))
    gradients: tuple[Port, ...] = ()
    drawn: tuple[str, ...] = ()

    @property
    def forward(self) -> OpSpec:
        """The loss itself."""
        return OpSpec(self.name, self.summary, self.inputs, (LOSS, *self.results), self.attributes)

    @property
    def grad(self) -> OpSpec:
        """The gradient with respect to the logits, from the upstream gradient `dloss`."""
        inputs = (
            replace(port, optional=port.optional and port.name not in self.drawn)
            for port in self.inputs
        )
        return OpSpec(
            f"{self.name}Grad",
            f"The gradient of {self.name} with respect to its logits.",
            (DLOSS, *inputs),
            (DLOGITS, *self.gradients),
            self.attributes,
        )

    @property
    def loss_and_grad(self) -> OpSpec:
        """Loss and gradient in one node, which reads the logits once."""
        return OpSpec(
            f"{self.name}AndGrad",
            f"{self.name} and its gradient with respect to the logits, in one reading of them.",
            (DLOSS, *self.inputs),
            (LOSS, DLOGITS, *self.results, *self.gradients),
            self.attributes,
        )

    @property
    def ops(self) -> tuple[OpSpec, OpSpec, OpSpec]:
        """The loss's three operators."""
        return self.forward, self.grad, self.loss_and_grad


NO_IGNORED_LABEL = -(2**63)
"""The `ignore_index` of a loss that ignores no label. As a label it is refused like any other that
is no class."""

FALSE = onnx.helper.make_tensor("false", onnx.TensorProto.BOOL, [1], [False])
FLOAT32_MAX = 3.4028234663852886e38
INFINITY = float("inf")
NAN = float("nan")
ONE = onnx.helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])

DLOSS = Port("dloss", "S", "as loss", "Upstream gradient: the derivative of the result by `loss`.")
DLOGITS = Port("dlogits", "T", "as logits", "Gradient of sum(dloss * loss) by `logits`.")
LOGITS = Port("logits", "T", "[d0, .., C, .., dk]", "Unnormalised scores; C classes on `axis`.")
CLASS_WEIGHTS = Port("class_weights", "S", "[C]", "Weight w_c of each class.", optional=True)
SAMPLE_WEIGHTS = Port(
    "sample_weights", "S", "logits without axis", "Weight s_i of each position.", optional=True
)
LOSS = Port("loss", "S", "logits without axis, or [] if reduced", "The loss.")
LSE: Port = Port(
    "lse",
    "S",
    "logits without axis",
    "Log of the softmax's denominator, log sum_c exp(x_ic), of every position.",
    optional=True,
)

AXIS = Attribute("axis", 1, "The class axis of `logits`; counts from the end when negative.")
REDUCTION = Attribute(
    "reduction",
    "mean",
    "`none`: the loss of every position. `sum`: their sum. `mean`: their sum divided by D.",
    choices=("none", "mean", "sum"),
)
LABEL_SMOOTHING = Attribute(
    "label_smoothing",
    0.0,
    "The factor e: how much of the target's probability is spread evenly over all classes.",
    minimum=0.0,
    maximum=1.0,
)
LABEL_SMOOTHING_LOW = Attribute(
    "label_smoothing_low",
    0.0,
    "What a float attribute cannot hold of e: e = label_smoothing + label_smoothing_low. "
    "It matters to float64 logits alone.",
    minimum=-(2.0**-25),
    maximum=2.0**-25,
    derived=True,
)
CLASS_WEIGHTING = Attribute(
    "class_weighting",
    "class",
    "`class`: w_c weighs the term of class c (PyTorch). "
    "`position`: sum_c t_ic w_c weighs the whole position, t its target distribution (Paddle).",
    choices=("class", "position"),
)
EMPTY_MEAN = Attribute(
    "empty_mean",
    "nan",
    "The mean where D is 0: `nan` (PyTorch), the `sum` (Paddle) or `zero` (TensorFlow).",
    choices=("nan", "sum", "zero"),
)
FROM_LOGITS = Attribute(
    "from_logits",
    1,
    "0: `logits` are probabilities already; their log takes the log-softmax's place.",
    choices=(0, 1),
)
NORMALIZE = Attribute(
    "normalize",
    "none",
    "What becomes of the probabilities x that `from_logits` = 0 takes. `none`: nothing. "
    "`before_clip`: they are divided by their sum, then clipped to [epsilon, 1 - epsilon] (Keras's "
    "categorical losses). `after_clip`: clipped, then divided by their sum (its sparse ones).",
    choices=("none", "before_clip", "after_clip"),
)
EPSILON = Attribute(
    "epsilon",
    0.0,
    "What `normalize` clips to; 0 where it is `none`.",
    minimum=0.0,
    maximum=0.5,
)
EPSILON_LOW = Attribute(
    "epsilon_low",
    0.0,
    "What a float attribute cannot hold of it: epsilon + epsilon_low is the bound.",
    minimum=-(2.0**-26),
    maximum=2.0**-26,
    derived=True,
)
Z_LOSS = Attribute(
    "z_loss",
    0.0,
    "Factor z of the square of lse_i that is added to each position's loss.",
    minimum=0.0,
    maximum=FLOAT32_MAX,
)
LOGIT_SOFTCAP = Attribute(
    "logit_softcap",
    0.0,
    "Above 0: logits x become cap * tanh(x / cap) first.",
    minimum=0.0,
    maximum=FLOAT32_MAX,
)
UNDEFINED = (
    "A position with nan, +inf, or nothing but -inf among its x has a nan loss, lse and gradient. "
    "With from_logits = 0 that is so where `after_clip` leaves a nan or nothing but 0."
)
OF_PROBABILITIES = (
    "With from_logits = 0 dlogits is the derivative of the loss too, 0 through what is clipped."
)
STASH_TYPE = Attribute(
    "stash_type",
    1,
    "Element type S of the sums, of `loss`, `dloss`, `lse` and the weights: "
    "1 (float32) for float16, bfloat16 and float32 logits, 11 (float64) for float64 logits.",
    choices=(1, 11),
    derived=True,
)
