# SPDX-License-Identifier: MIT
"""The losses that bench_cuda.py times: their inputs, who computes them, and what is right."""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bench.timing import BOTH, LOSS
from tests.cuda_calls import EMPTY_MEAN, LABEL_KINDS, MEAN_OVER, PROBABILITIES, LossCall

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
IGNORE_INDEX = -100
SMOOTHING, Z_LOSS = 0.1, 1e-4

WORKS = (LOSS, BOTH)
SETTINGS = ("plain", "soft labels", "smoothing", "class weights", "z_loss", "half ignored")

# Relative errors that count as right: of the mean loss, and of the gradient as a whole, |g-T|/|T|.
# A 16-bit gradient is rounded once, to 2^-9 in bfloat16; some peers round the loss as well.
MOST_LOSS_ERROR = {"bfloat16": 8e-3, "float16": 1e-3, "float32": 1e-5}
MOST_GRADIENT_ERROR = {"bfloat16": 8e-3, "float16": 1e-3, "float32": 1e-4}
_CHUNK_ELEMENTS = 1 << 25  # of what is computed in float64 at a time

Run = Callable[[], tuple[Any, Any]]
"""Gives the mean loss, and the gradient or None."""


class UnavailableError(Exception):
    """An implementation that does not have the loss, or is not here."""


class Library(Protocol):
    """The CUDA kernels' C functions, where `stream()` is the stream of the tensors."""

    functions: ctypes.CDLL

    def stream(self) -> ctypes.c_void_p:
        """The stream."""


@dataclass(frozen=True)
class Work:
    """What is to be computed; `inner` is beyond 1 where the class axis is not the last."""

    rows: int
    classes: int
    dtype: str
    setting: str
    work: str
    inner: int = 1

    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        return (self.rows, self.classes, self.inner, self.dtype, self.setting, self.work)

    @property
    def writes(self) -> bool:
        """Whether there is a gradient."""
        return self.work == BOTH

    def elements(self) -> int:
        """Of the logits."""
        return self.rows * self.classes * self.inner

    def bytes_moved(self) -> int:
        """Each input read once and each output written once; ignored rows need not be read."""
        logits = self.elements() * BYTES[self.dtype]
        read = logits // 2 if self.setting == "half ignored" else logits
        labels = logits if self.setting == "soft labels" else 8 * self.rows * self.inner
        return read + labels + (logits if self.writes else 0)


@dataclass
class Problem:
    """Its inputs, on a device."""

    torch: Any
    work: Work
    logits: Any
    labels: Any
    class_weights: Any = None
    smoothing: float = 0.0
    z_loss: float = 0.0
    soft: bool = False

    def denominator(self) -> Any:
        """Of the mean."""
        if self.soft:
            return float(self.work.rows)
        counts = (self.labels != IGNORE_INDEX).double()
        if self.class_weights is not None:
            counts = counts * self.class_weights.double()[self.labels.clamp(min=0)]
        return counts.sum()

    def chunks(self) -> Iterator[slice]:
        """Rows that are computed in float64 together."""
        step = max(1, _CHUNK_ELEMENTS // (self.work.classes * self.work.inner))
        return (slice(i, i + step) for i in range(0, self.work.rows, step))

    def sum_of(self, logits: Any, rows: slice) -> Any:
        """The sum of the rows' losses, from the definition."""
        torch, labels = self.torch, self.labels[rows]
        lse = torch.logsumexp(logits, 1)
        weights = self.class_weights
        neg_log_p = lse[:, None] - logits
        weighted = neg_log_p if weights is None else neg_log_p * weights.to(logits.dtype)
        if self.soft:
            losses = (labels.to(logits.dtype) * weighted).sum(1)
        else:
            losses = weighted.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        if self.smoothing:
            losses = (1 - self.smoothing) * losses + self.smoothing * weighted.mean(1)
        losses = losses + self.z_loss * lse * lse
        return losses.sum() if self.soft else (losses * (labels != IGNORE_INDEX)).sum()


def make_problem(torch: Any, device: str, work: Work) -> Problem:
    """The inputs, the same for the same work."""
    random = torch.Generator(device=device)
    random.manual_seed(work.rows + work.classes)
    shape = (work.rows, work.classes) + ((work.inner,) if work.inner > 1 else ())
    dtype = getattr(torch, work.dtype)
    logits = torch.empty(shape, dtype=dtype, device=device)
    logits.normal_(0, 3, generator=random)
    places = (shape[0], *shape[2:])
    labels = torch.randint(work.classes, places, device=device, generator=random)
    problem = Problem(torch, work, logits, labels)
    if work.setting == "soft labels":
        scores = torch.empty_like(logits).normal_(0, 1, generator=random)
        problem.labels, problem.soft = torch.softmax(scores, 1), True
    elif work.setting == "smoothing":
        problem.smoothing = SMOOTHING
    elif work.setting == "class weights":
        weights = torch.empty(work.classes, device=device)
        problem.class_weights = weights.uniform_(0.5, 2, generator=random)
    elif work.setting == "z_loss":
        problem.z_loss = Z_LOSS
    elif work.setting == "half ignored":
        labels[::2] = IGNORE_INDEX
    return problem


def ours(problem: Problem, library: Library) -> Run:
    """The kernels of the library, by pointers."""
    torch, work = problem.torch, problem.work
    new = functools.partial(torch.empty, device=problem.logits.device)
    loss, dloss = new(()), torch.ones_like(new(()))
    # What the kernel leaves out stays wrong.
    dlogits = torch.full_like(problem.logits, torch.nan) if work.writes else None
    weights = problem.class_weights
    call = LossCall(
        type=TYPES[work.dtype],
        label_kind=PROBABILITIES if problem.soft else LABEL_KINDS["int64"],
        outer=work.rows,
        classes=work.classes,
        inner=work.inner,
        ignore_index=IGNORE_INDEX,
        from_logits=1,
        reduced=1,
        mean=1,
        mean_over=MEAN_OVER.index("positions" if problem.soft else "weights"),
        empty_denominator=EMPTY_MEAN["nan"],
        label_smoothing=problem.smoothing,
        z_loss=problem.z_loss,
        logits=problem.logits.data_ptr(),
        labels=problem.labels.data_ptr(),
        class_weights=None if weights is None else weights.data_ptr(),
        dloss=None if dlogits is None else dloss.data_ptr(),
        loss=loss.data_ptr(),
        dlogits=None if dlogits is None else dlogits.data_ptr(),
    )
    size = library.functions.OnnxLossCudaScratchBytes(ctypes.byref(call))
    scratch = new(size, dtype=torch.uint8)

    def run(_dloss: Any = dloss) -> tuple[Any, Any]:  # dloss lives as long as the call
        failure = library.functions.OnnxLossCudaRun(
            ctypes.byref(call), ctypes.c_void_p(scratch.data_ptr()), library.stream()
        )
        if failure is not None:
            raise RuntimeError(failure.decode())
        return loss, dlogits

    return run


def _torch_loss(problem: Problem, logits: Any) -> Any:
    """PyTorch's loss, in float32 for 16-bit logits as training does it."""
    cross_entropy = problem.torch.nn.functional.cross_entropy
    x = logits.float()
    loss = cross_entropy(
        x,
        problem.labels.float() if problem.soft else problem.labels,
        weight=problem.class_weights,
        label_smoothing=problem.smoothing,
    )
    if not problem.z_loss:
        return loss
    return loss + problem.z_loss * problem.torch.logsumexp(x, 1).square().mean()


def torch_eager(problem: Problem, _library: Library) -> Run:
    """PyTorch operator by operator."""
    return _with_autograd(problem, functools.partial(_torch_loss, problem))


def torch_compile(problem: Problem, _library: Library) -> Run:
    """The same through torch.compile, for this shape alone."""
    # Beyond a few shapes it would go back to eager without a word.
    problem.torch._dynamo.reset()
    function = functools.partial(_torch_loss, problem)
    return _with_autograd(problem, problem.torch.compile(function, dynamic=False))


def liger(problem: Problem, _library: Library) -> Run:
    """Liger-Kernel's Triton kernel, which writes the gradient over its logits."""
    _refuse_other_axes(problem)
    if problem.soft:
        raise UnavailableError("no soft labels")
    module = _import("liger_kernel.transformers")
    loss = module.LigerCrossEntropyLoss(
        weight=problem.class_weights,
        ignore_index=IGNORE_INDEX,
        lse_square_scale=problem.z_loss,
        label_smoothing=problem.smoothing,
    )
    # Its next run computes on what is there then, in the same time.
    own = problem.logits.clone()
    return _with_autograd(problem, lambda x: loss(x, problem.labels), own)


def quack(problem: Problem, _library: Library) -> Run:
    """QuACK's loss, and its gradient in a kernel of its own."""
    function = _quack(problem).cross_entropy
    settings = {"weight": problem.class_weights, "ignore_index": IGNORE_INDEX}
    return _with_autograd(problem, lambda x: function(x, problem.labels, **settings))


def quack_once(problem: Problem, _library: Library) -> Run:
    """QuACK's forward kernel that gives the gradient too, of the sum: it takes no upstream one."""
    if not problem.work.writes:
        raise UnavailableError("as QuACK")
    function = _quack(problem).cross_entropy_fwd
    settings = {"weight": problem.class_weights, "ignore_index": IGNORE_INDEX, "return_dx": True}

    def run() -> tuple[Any, Any]:
        losses, gradient = function(problem.logits, problem.labels, **settings)
        return losses.sum(), gradient

    run.gives_sum = True  # type: ignore[attr-defined]
    return run


def _quack(problem: Problem) -> Any:
    _refuse_other_axes(problem)
    if problem.soft or problem.smoothing or problem.z_loss:
        raise UnavailableError(f"no {problem.work.setting}")
    return _import("quack.cross_entropy")


def _refuse_other_axes(problem: Problem) -> None:
    if problem.work.inner > 1:
        raise UnavailableError("class axis last alone")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from None


def _with_autograd(problem: Problem, loss_of: Callable[[Any], Any], own: Any = None) -> Run:
    logits = (problem.logits if own is None else own).detach()
    logits.requires_grad_(problem.work.writes)

    def run() -> tuple[Any, Any]:
        if not problem.work.writes:
            with problem.torch.no_grad():
                return loss_of(logits), None
        logits.grad = None
        loss = loss_of(logits)
        loss.backward()
        return loss, logits.grad

    return run


IMPLEMENTATIONS: dict[str, Callable[[Problem, Library], Run]] = {
    "onnxloss": ours,
    "torch eager": torch_eager,
    "torch.compile": torch_compile,
    "Liger": liger,
    "QuACK": quack,
    "QuACK, one pass": quack_once,
}


def errors_of(run: Run, problem: Problem) -> tuple[float, float]:
    """Relative errors of the loss and of the whole gradient, in float64; nan where one is."""
    torch = problem.torch
    loss, gradient = run()
    # An implementation that gives sums is compared with sums.
    denominator = 1.0 if getattr(run, "gives_sum", False) else problem.denominator()
    total, wrong, size = 0.0, 0.0, 0.0
    for rows in problem.chunks():
        x = problem.logits[rows].double().requires_grad_(problem.work.writes)
        part = problem.sum_of(x, rows) / denominator
        total += part.item()
        if problem.work.writes:
            (wanted,) = torch.autograd.grad(part, x)
            wrong += (gradient[rows].double() - wanted).square().sum().item()
            size += wanted.square().sum().item()
    return abs(loss.item() - total) / abs(total), (wrong / size) ** 0.5 if size else 0.0


def fault_of(run: Run, problem: Problem) -> str | None:
    """What is wrong with a result; None where nothing is."""
    loss, gradient = errors_of(run, problem)
    dtype = problem.work.dtype
    # A comparison that nan fails.
    if not loss <= MOST_LOSS_ERROR[dtype]:
        return f"wrong: loss off by {loss:.1e}"
    if not gradient <= MOST_GRADIENT_ERROR[dtype]:
        return f"wrong: gradient off by {gradient:.1e}"
    return None
