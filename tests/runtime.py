# SPDX-License-Identifier: MIT
"""Runs models in onnxruntime on numpy arrays, bfloat16 included, with and without the library."""

from __future__ import annotations

import os
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

import onnxloss

WAYS = ("function body", "library", "inlined")
"""How one exported loss is run; every test of numbers runs all of them."""

OTHER_LIBRARY = os.environ.get("ONNXLOSS_TEST_LIBRARY")
"""Another build of the library to test in the place of the installed one, as with a sanitizer."""

PROVIDERS = dict.fromkeys(
    (os.environ.get("ONNXLOSS_PROVIDER", "CPUExecutionProvider"), "CPUExecutionProvider")
)
"""`make test-gpu` asks for CUDA's; what it does not run goes to the CPU."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
RUNTIME_ERRORS = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
    # run_with_iobinding raises no class of its own.
    RuntimeError,
)
_DTYPES = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": BFLOAT16,
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}


def make_session(
    model: onnx.ModelProto, *, library: bool, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session on the CPU, where `library` says whether ours is registered."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # An expected error is asserted from the exception; the log line beside it is noise.
    options.log_severity_level = 4
    if library and OTHER_LIBRARY:
        options.register_custom_ops_library(OTHER_LIBRARY)
        # Buffers of their own let a sanitizer see where one ends.
        options.enable_cpu_mem_arena = False
    elif library:
        onnxloss.register(options)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=list(PROVIDERS)
    )


def run_session(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The outputs by name.

    `InferenceSession.run` neither takes nor gives bfloat16 arrays: where there are any, they go in
    as OrtValues over their bits, and come out through bound arrays of the same width.
    """
    names = [output.name for output in session.get_outputs()]
    ports = (*session.get_inputs(), *session.get_outputs())
    if all(_DTYPES[port.type] != BFLOAT16 for port in ports):
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort_value(array))
    bits = {}
    for output in session.get_outputs():
        if _DTYPES[output.type] == BFLOAT16:
            # The models of this suite that have bfloat16 outputs have static shapes.
            bits[output.name] = np.zeros(output.shape, np.uint16)
            binding.bind_ortvalue_output(output.name, ort_value(bits[output.name].view(BFLOAT16)))
        else:
            binding.bind_output(output.name)
    session.run_with_iobinding(binding)
    return {
        name: bits[name].view(BFLOAT16) if name in bits else value.numpy()
        for name, value in zip(names, binding.get_outputs(), strict=True)
    }


def run_model(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    *,
    library: bool = False,
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """The outputs of `model` by name."""
    return run_session(make_session(model, library=library, threads=threads), feeds)


def numpy_dtype(element_type: int) -> np.dtype:
    """The numpy dtype of an ONNX element type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))


def dtype_of(model: onnx.ModelProto, name: str) -> np.dtype:
    """The dtype of the graph input or output called `name`."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name == name:
            return numpy_dtype(value.type.tensor_type.elem_type)
    raise KeyError(name)


def ort_value(array: np.ndarray) -> onnxruntime.OrtValue:
    """A value over the memory of `array`, which must be in C order; bfloat16 too."""
    array = np.asarray(array, order="C")
    if array.dtype == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint16), onnx.TensorProto.BFLOAT16
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
