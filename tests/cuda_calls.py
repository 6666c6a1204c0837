# SPDX-License-Identifier: MIT
"""Calls of the CUDA kernels without ONNX Runtime: on the host, or with `make test-gpu` on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np

from tests import cuda_on_gpu, cuda_on_host
from tests.cases import Case
from tests.models import element_type, raw_arrays, stash_dtype

OUTPUTS = ("loss", "lse", "dlogits")
PATHS = ("nothing", "resident", "streamed", "strided", "packed", "probabilities")
LABEL_KINDS = {"int32": 0, "int64": 1}
PROBABILITIES = 2
MEAN_OVER = ("weights", "positions", "valid", "nonzero")
NORMALIZE = ("none", "before_clip", "after_clip")
EMPTY_MEAN = {"nan": np.nan, "sum": 1.0, "zero": np.inf}
GUARD = 0xA5

_INTEGERS = (
    "type label_kind outer classes inner ignore_index from_logits normalize reduced mean mean_over "
    "class_weights_positions"
)
_NUMBERS = "empty_denominator label_smoothing epsilon z_loss softcap"
_POINTERS = "logits labels class_weights sample_weights dloss loss lse dlogits dlabels"
_SAMPLED_INTEGERS = (
    "type label_kind rows classes num_true num_samples own_samples remove_accidental_hits reduced "
    "mean"
)
_SAMPLED_POINTERS = (
    "logits labels samples probabilities dloss loss lse dlogits drawn_samples drawn_probabilities "
    "host_samples"
)


class LossCall(ctypes.Structure):
    """ops/cuda/loss.h, field by field."""

    prefix = ""  # of its functions
    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS.split()),
        *((name, ctypes.c_double) for name in _NUMBERS.split()),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    ]


class SampledCall(ctypes.Structure):
    """ops/cuda/sampled.h, field by field."""

    prefix = "Sampled"
    _fields_ = [
        *((name, ctypes.c_int64) for name in _SAMPLED_INTEGERS.split()),
        *((name, ctypes.c_double) for name in ("z_loss", "softcap")),
        *((name, ctypes.c_void_p) for name in _SAMPLED_POINTERS.split()),
        *((name, ctypes.c_int64) for name in ("num_tries", "host_samples_last")),
    ]


@cache
def machine() -> Any:
    """What runs the kernels: the host, or a GPU where `make test-gpu` asks for it."""
    return cuda_on_gpu.gpu() if cuda_on_host.GPU_WANTED else cuda_on_host.Host()


class Guarded:
    """An array `shift` elements after a boundary of 256, between bytes that no kernel may write."""

    def __init__(self, on: Any, array: np.ndarray, shift: int, *, written: bool):
        self.on, self.shape, self.dtype = on, array.shape, array.dtype
        self.begin = 256 + shift * array.itemsize
        self.end = self.begin + array.nbytes
        image = np.full(self.end + 256, GUARD, np.uint8)
        if written:
            image[self.begin : self.end] = np.frombuffer(array.tobytes(), np.uint8)
        self.memory, address = on.upload(image)
        self.address = address + self.begin

    def read(self) -> np.ndarray:
        """The array as it is now."""
        image = self.on.download(self.memory)
        around = np.concatenate([image[: self.begin], image[self.end :]])
        assert (around == GUARD).all(), "bytes around an array were written"
        return (
            np.frombuffer(image[self.begin : self.end].tobytes(), self.dtype)
            .reshape(self.shape)
            .copy()
        )


def make_call(
    attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, soft: bool
) -> LossCall:
    """The call of an operator, but for its pointers."""
    logits = arrays["logits"]
    axis = attributes["axis"] % logits.ndim
    reduction = attributes.get("reduction", "mean")
    mean_over = attributes.get("mean_over", "positions" if soft else "weights")
    kind = PROBABILITIES if soft else LABEL_KINDS[arrays["labels"].dtype.name]
    e = attributes.get("label_smoothing", 0.0)
    return LossCall(
        type=element_type(logits.dtype),
        label_kind=kind,
        outer=int(np.prod(logits.shape[:axis])),
        classes=logits.shape[axis],
        inner=int(np.prod(logits.shape[axis + 1 :])),
        ignore_index=attributes.get("ignore_index", -100),
        from_logits=attributes.get("from_logits", 1),
        normalize=NORMALIZE.index(attributes.get("normalize", "none")),
        reduced=reduction != "none",
        mean=reduction == "mean",
        mean_over=MEAN_OVER.index(mean_over) if reduction == "mean" else 1,
        class_weights_positions=attributes.get("class_weighting", "class") == "position",
        empty_denominator=EMPTY_MEAN[attributes.get("empty_mean", "nan")],
        label_smoothing=e if logits.dtype == np.float64 else float(np.float32(e)),
        epsilon=attributes.get("epsilon", 0.0),
        z_loss=float(np.float32(attributes.get("z_loss", 0.0))),
        softcap=float(np.float32(attributes.get("logit_softcap", 0.0))),
    )


def run(
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    soft: bool = False,
    outputs: Collection[str] = OUTPUTS,
    largest_cluster: int = 16,
    shift: int = 0,
) -> dict[str, np.ndarray]:
    """What the kernels make of a node's inputs, in the operator's own dtypes.

    Asserts that they write their outputs and nothing else. The host plays any chip.
    """
    call = make_call(attributes, arrays, soft=soft)
    given = {name: value for name, value in arrays.items() if value is not None}
    if not {"dlogits", "dlabels"} & set(outputs):
        del given["dloss"]
    logits = given["logits"]
    positions = tuple(np.delete(logits.shape, attributes["axis"]).tolist())
    stash = stash_dtype(logits.dtype.name)
    forms = {
        "loss": np.empty(() if call.reduced else positions, stash),
        "lse": np.empty(positions, stash),
        "dlogits": np.empty(logits.shape, logits.dtype),
        "dlabels": np.empty(logits.shape, logits.dtype),
    }
    return run_call(call, given, {name: forms[name] for name in outputs}, largest_cluster, shift)


def run_sampled(
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    outputs: Collection[str] = OUTPUTS,
    num_tries: int = 0,
) -> dict[str, np.ndarray]:
    """The same of the sampled softmax; its samples are given, or drawn in `num_tries`."""
    logits, labels, samples = arrays["logits"], arrays["labels"], arrays["samples"]
    reduction = attributes["reduction"]
    call = SampledCall(
        type=element_type(logits.dtype),
        label_kind=LABEL_KINDS[labels.dtype.name],
        rows=logits.shape[0],
        classes=logits.shape[1],
        num_true=labels.shape[1],
        num_samples=samples.shape[-1],
        own_samples=samples.ndim == 2,
        remove_accidental_hits=attributes["remove_accidental_hits"],
        reduced=reduction != "none",
        mean=reduction == "mean",
        z_loss=attributes.get("z_loss", 0.0),
        softcap=attributes.get("logit_softcap", 0.0),
    )
    stash = arrays["probabilities"].dtype
    rows = logits.shape[:1]
    forms = {
        "loss": np.empty(() if call.reduced else rows, stash),
        "lse": np.empty(rows, stash),
        "dlogits": np.empty(logits.shape, logits.dtype),
        "drawn_samples": np.empty_like(samples),
        "drawn_probabilities": np.empty_like(arrays["probabilities"]),
    }
    given = dict(arrays)
    if num_tries:
        del given["samples"], given["probabilities"]
        call.host_samples, call.num_tries = samples.ctypes.data, num_tries
    return run_call(call, given, {name: forms[name] for name in outputs})


def run_call(
    call: ctypes.Structure,
    given: Mapping[str, np.ndarray],
    forms: Mapping[str, np.ndarray],
    largest_cluster: int = 16,
    shift: int = 0,
) -> dict[str, np.ndarray]:
    """The outputs, which have the shapes and dtypes of `forms`."""
    on = machine()
    inputs = {name: Guarded(on, value, shift, written=True) for name, value in given.items()}
    results = {name: Guarded(on, form, shift, written=False) for name, form in forms.items()}
    for name, guarded in (*inputs.items(), *results.items()):
        setattr(call, name, guarded.address)
    scratch = Guarded(on, np.empty(on.scratch_bytes(call), np.uint8), 0, written=False)
    arrays = (*inputs.values(), *results.values(), scratch)
    areas = [(array.address, array.end - array.begin) for array in arrays]
    failure = on.run(call, scratch.address, largest_cluster, areas)
    assert failure is None, failure
    scratch.read()
    for name, guarded in inputs.items():
        assert guarded.read().tobytes() == given[name].tobytes(), f"{name} has changed"
    return {name: guarded.read() for name, guarded in results.items()}


def path_of(attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray], **options: Any) -> str:
    """The path of such a call, with all its outputs."""
    call = make_call(attributes, arrays, soft=options.pop("soft", False))
    call.logits = call.dlogits = 256
    fields = {name: getattr(call, name) for name, _ in LossCall._fields_}
    return plan_of(**options, **fields)["path"]


def run_case(case: Case, **options: Any) -> dict[str, np.ndarray]:
    """The outputs of a case that its truth has."""
    soft = case.op.startswith("SoftLabel")
    options = {"outputs": tuple(case.truth), **options}
    return run(case.attributes, raw_arrays(case), soft=soft, **options)


def plan_of(largest_cluster: int = 16, **fields: Any) -> dict[str, Any]:
    """The plan of a call."""
    numbers = (ctypes.c_int64 * 7)()
    cuda_on_host.library().PlanFor(ctypes.byref(LossCall(**fields)), largest_cluster, numbers)
    names = ("path", "residence", "blocks", "threads", "cluster", "class_lanes", "across")
    return dict(zip(names, [PATHS[numbers[0]], *numbers[1:]], strict=True))
