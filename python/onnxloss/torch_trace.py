# SPDX-License-Identifier: MIT
"""A PyTorch module's forward and backward pass as ONNX, traced by make_fx.

torch.onnx has no training graphs. What autograd does is traced into a graph first, with the rules
of `torch_decompositions`, and torch.onnx translates that. It runs without its optimizer, which
merges parameters that are equal and takes constants up to 1e-8 for 0.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx.inliner
import torch
from onnx import helper, numpy_helper
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import LossError, expected, root_of
from .from_torch import tensor_to_array
from .quiet import quiet
from .torch_decompositions import decompositions
from .torch_program import model_of

LOGITS = "logits"
_SEED = ("onnxloss.training", "dlogits")
_PARAMETER = OpSchema.FormalParameter
_SEED_SCHEMA = OpSchema(
    _SEED[1],
    _SEED[0],
    1,
    inputs=[_PARAMETER("logits", "T")],
    outputs=[_PARAMETER("dlogits", "T")],
    type_constraints=[("T", ["tensor(float)", "tensor(double)", "tensor(float16)"], "")],
)

# What to do about an error, by what PyTorch says in it.
_ADVICE = {
    "No ONNX function found": "operators that torch.onnx translates, those of the backward pass "
    "too: compute it with others, or train no parameter before it",
    "dynamo-optimized": "modules that are not compiled: what torch.compile gave has its own as "
    "_orig_mod",
}


@dataclass(frozen=True)
class Trace:
    """A module as ONNX.

    Attributes:
        forward: Inputs: those of the module. Initializers: its parameters and buffers, under their
            own names. Outputs: `logits`.
        buffers: Buffers, and parameters that are not trained, that the forward pass changes; each
            with the value that it becomes.
        backward: The nodes of the backward pass, in order; they read values of `forward`.
        seed: The value in them that is the gradient by the logits.
        gradients: For each trained parameter the value in them that is its gradient.
    """

    forward: onnx.ModelProto
    buffers: Mapping[str, str] = field(default_factory=dict)
    backward: Sequence[onnx.NodeProto] = ()
    seed: str = ""
    gradients: Mapping[str, str] = field(default_factory=dict)


def _dlogits(logits: torch.Tensor) -> torch.Tensor:
    """Stands for the gradient by the logits, which the loss's operator gives."""
    return torch.zeros_like(logits)


torch.library.custom_op("onnxloss::dlogits", _dlogits, mutates_args=()).register_fake(_dlogits)


def _seed_node() -> Op:
    """`_dlogits` in the exported graph."""
    return Op(Opset(_SEED[0], 1), _SEED[1], _SEED_SCHEMA)


def trace(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    gradients: bool,
    input_names: Sequence[str] | None,
    dynamic_shapes: Sequence[Mapping[int, Any]] | Mapping[str, Mapping[int, Any]] | None,
    opset_version: int,
) -> Trace:
    """The module in ONNX, in the mode (train or eval) that it is in.

    Args:
        module: The module; it gives the logits.
        inputs: Its example inputs.
        gradients: Adds the backward pass, and what the forward pass changes.
        input_names: Names of the inputs; by default those of the parameters of `forward`.
        dynamic_shapes: For each input its dynamic dimensions, as for `torch.export.export`.
        opset_version: Version of ai.onnx.

    Raises:
        LossError: The module's output is no tensor, a trained parameter has no influence on it, or
            PyTorch cannot trace or export it.
    """
    names = list(input_names or _input_names(module, len(inputs)))
    if len(names) != len(inputs):
        raise expected("training_step", "input_names", names, f"{len(inputs)} names")
    joint = _Joint(module, len(inputs), gradients)
    if LOGITS in joint.state:
        raise LossError(
            f'training_step: a parameter or buffer of the module is named "{LOGITS}", as the '
            "model's output; expected another name."
        )
    for name in names:
        if name == LOGITS or name in joint.state or names.count(name) > 1:
            allowed = f"names once each, other than \"{LOGITS}\", the output's, and the state's"
            raise expected("training_step", "input_names", names, allowed)
    given = (*inputs, *(tensor.detach().clone() for tensor in joint.state.values()))
    shapes = _dynamic_shapes(dynamic_shapes, names, len(joint.state))
    try:
        with _silence(), sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            graph = _traced(joint, given, shapes)
            program = torch.onnx.export(
                graph,
                given,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset_version,
                input_names=[*names, *joint.state],
                output_names=joint.output_names,
                dynamic_shapes=shapes,
                custom_translation_table={
                    # A named function would be looked at for annotations of onnxscript's own.
                    torch.ops.onnxloss.dlogits.default: lambda logits: _seed_node()(logits)
                },
            )
    except LossError:
        raise
    except Exception as error:
        root = root_of(error)
        first = str(root).strip().partition("\n")[0].rstrip(".")
        advice = [advice for said, advice in _ADVICE.items() if said in first]
        raise LossError(
            f"training_step: PyTorch cannot trace or export the module: "
            f"{type(root).__name__}: {'; expected '.join([first, *advice])}."
        ) from error
    return _divided(model_of(program), joint)


def _traced(
    joint: _Joint, given: Sequence[torch.Tensor], shapes: Sequence[Mapping[int, Any]] | None
) -> torch.fx.GraphModule:
    """The function as a graph; of its sizes those alone are symbols that are to be dynamic.

    It is traced with fake tensors: what depends on the values of the example cannot get in.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = []
    for tensor, shape in zip(given, shapes or [{}] * len(given), strict=True):
        sizes = [
            DimDynamic.DYNAMIC if dim in shape else DimDynamic.STATIC for dim in range(tensor.dim())
        ]
        context = StatelessSymbolicContext(dynamic_sizes=sizes)
        fakes.append(mode.from_tensor(tensor, symbolic_context=context))
    with mode:
        return make_fx(joint, decomposition_table=decompositions())(*fakes)


class _Joint:
    """Forward and backward pass as one function of tensors: the inputs, then the state."""

    def __init__(self, module: torch.nn.Module, num_inputs: int, gradients: bool) -> None:
        self._module, self._num_inputs, self._gradients = module, num_inputs, gradients
        self._parameters = dict(module.named_parameters())
        self.state = {**self._parameters, **dict(module.named_buffers())}
        trained = [name for name, p in self._parameters.items() if p.requires_grad]
        self.trained = trained if gradients else []
        self.kept = list(self.state) if gradients else []
        names = {id(tensor): name for name, tensor in self.state.items()}
        # Tied weights are in several places. A shared module is once among them: functional_call
        # leaves what it was given in a place that it is told of twice.
        self._places = {place: names[id(tensor)] for place, tensor in _places(module).items()}

    @property
    def output_names(self) -> list[str]:
        """What the function returns."""
        return [LOGITS, *map(_next, self.kept), *map(_gradient, self.trained)]

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs, values = tensors[: self._num_inputs], tensors[self._num_inputs :]
        state = {}
        for name, value in zip(self.state, values, strict=True):
            # A leaf to differentiate by, or what the module may change in place.
            state[name] = value.detach() if name in self._parameters else value.clone()
            state[name].requires_grad_(name in self.trained)
        after: dict[str, torch.Tensor] = {}

        def keep(module: torch.nn.Module, *_: Any) -> None:
            after.update(_places(module))

        given = {place: state[name] for place, name in self._places.items()}
        stored = {name: _storage(tensor) for name, tensor in state.items()}
        hook = self._module.register_forward_hook(keep)
        try:
            with _same_attributes(self._module):
                logits = torch.func.functional_call(self._module, given, inputs, tie_weights=False)
        finally:
            hook.remove()
        for place, name in self._places.items():
            now = after.get(place)
            moved = now is state[name] and _storage(now) != stored[name]
            if now is None or now is not after.get(name) or moved:
                raise LossError(
                    f'training_step: the forward pass gives "{place}" other data; expected it to '
                    "change buffers in place, by copy_, and no parameter that is trained."
                )
        if not isinstance(logits, torch.Tensor):
            raise expected("training_step", "module's output", type(logits).__name__, "one tensor")
        if not self._gradients:
            return (logits,)
        seed = torch.ops.onnxloss.dlogits(logits.detach())
        parameters = [state[name] for name in self.trained]
        gradients = torch.autograd.grad(logits, parameters, seed, allow_unused=True)
        for name, gradient in zip(self.trained, gradients, strict=True):
            if gradient is None:
                raise LossError(
                    f'training_step: the loss does not depend on the parameter "{name}"; '
                    "expected it to: set its requires_grad to False."
                )
        return logits.detach(), *(after[name].detach() for name in self.kept), *gradients


def _storage(tensor: torch.Tensor) -> int:
    """Another one for a tensor whose `data` is set, of which the trace knows nothing."""
    return tensor.untyped_storage()._cdata


def _places(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Each place of a parameter or a buffer, by its first name."""
    places: dict[str, torch.Tensor] = {}
    for prefix, part in module.named_modules():
        places.update(part.named_parameters(prefix, recurse=False, remove_duplicate=False))
        places.update(part.named_buffers(prefix, recurse=False, remove_duplicate=False))
    return places


@contextlib.contextmanager
def _same_attributes(module: torch.nn.Module) -> Iterator[None]:
    """Takes back what a forward pass keeps in the module: here it is what is traced."""
    before = [(part, {**vars(part), "_buffers": dict(part._buffers)}) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)


def _divided(model: onnx.ModelProto, joint: _Joint) -> Trace:
    """The joint graph as a forward model and the nodes of the backward pass."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    for node in graph.node:
        # Where in the user's files it comes from is nobody else's.
        del node.metadata_props[:]
    makers = {name: node for node in graph.node for name in node.output}
    buffers = {name: _next(name) for name in joint.kept if not _is_same(makers, name)}
    for name in joint.trained:
        if name in buffers:
            raise LossError(
                f'training_step: the forward pass changes the parameter "{name}" in place, as '
                "Embedding does with max_norm; expected it to change a copy, or the parameter to "
                "have no requires_grad."
            )
    ahead = _ancestors(graph.node, {LOGITS, *buffers.values()})
    forward = [node for node in graph.node if ahead.intersection(node.output)]
    gradients = {name: _gradient(name) for name in joint.trained}
    behind = _ancestors(graph.node, set(gradients.values())) - ahead
    backward = [node for node in graph.node if behind.intersection(node.output)]
    seeds = [node.output[0] for node in backward if (node.domain, node.op_type) == _SEED]
    backward = [node for node in backward if (node.domain, node.op_type) != _SEED]

    inputs = [value for value in graph.input if value.name not in joint.state]
    outputs = [value for value in graph.output if value.name == LOGITS]
    made = helper.make_model(
        helper.make_graph(forward, "forward", inputs, outputs, graph.initializer),
        opset_imports=[entry for entry in model.opset_import if entry.domain == ""],
        ir_version=model.ir_version,
    )
    for name, tensor in joint.state.items():
        made.graph.initializer.append(numpy_helper.from_array(tensor_to_array(tensor), name))
    onnx.checker.check_model(made)
    return Trace(made, buffers, backward, seeds[0] if seeds else "", gradients)


def _is_same(makers: Mapping[str, onnx.NodeProto], buffer: str) -> bool:
    """Whether a buffer comes out as it went in."""
    name = _next(buffer)
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    return name == buffer


def _ancestors(nodes: Sequence[onnx.NodeProto], names: set[str]) -> set[str]:
    """The values that these are made of, and they themselves."""
    needed = set(names)
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed


def _next(buffer: str) -> str:
    return f"{buffer}.next"


def _gradient(parameter: str) -> str:
    return f"{parameter}.grad"


def _input_names(module: torch.nn.Module, count: int) -> list[str]:
    """The first parameters' names of the module's forward."""
    return list(inspect.signature(module.forward).parameters)[:count]


def _dynamic_shapes(
    given: Sequence[Mapping[int, Any]] | Mapping[str, Mapping[int, Any]] | None,
    names: Sequence[str],
    num_states: int,
) -> tuple[Mapping[int, Any], ...] | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise expected("training_step", "dynamic_shapes", unknown, f"names among {names}")
        given = [given.get(name, {}) for name in names]
    if len(given) != len(names):
        raise expected("training_step", "dynamic_shapes", given, f"one entry for each of {names}")
    return *(dict(shape or {}) for shape in given), *({} for _ in range(num_states))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Holds back what torch.onnx prints, and its remarks on packages that it does not need."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        quiet("torch.onnx", level=logging.ERROR),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
