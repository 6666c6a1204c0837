# SPDX-License-Identifier: MIT
"""The custom-operator library: where it lies, and how ONNX Runtime gets it."""

from __future__ import annotations

import weakref
from importlib import resources
from typing import TYPE_CHECKING, Any

from .errors import LossError, check_type

if TYPE_CHECKING:
    import onnxruntime

_LIBRARY = "libonnxloss.so"
_registered: weakref.WeakSet[onnxruntime.SessionOptions] = weakref.WeakSet()
"""The options that have the library: with it twice, ONNX Runtime makes no session of them."""


def runtime() -> Any:
    """The module onnxruntime, which is an extra: any build of it may be there.

    Raises:
        LossError: None is.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise LossError(
            "onnxruntime is not installed; install onnxloss[cpu] to run models."
        ) from error
    return onnxruntime


def library_path() -> str:
    """The path of the custom-operator library, for other languages and for onnxruntime-training.

    Raises:
        LossError: The package was installed without its library.
    """
    path = resources.files(__package__).joinpath(_LIBRARY)
    if not path.is_file():
        raise LossError(
            f"library_path: {path} does not exist; install onnxloss from a wheel or with "
            "`pip install .`, which builds it. Models run without it through their functions."
        )
    return str(path)


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Loads the library into `session_options`: sessions made with them run the fused kernels.

    Once for each options; what is registered already stays as it is.

    Example:
        >>> import onnxruntime
        >>> options = onnxruntime.SessionOptions()
        >>> onnxloss.register(options)

    Raises:
        LossError: The package was installed without its library, or these are no options.
    """
    kind, allowed = runtime().SessionOptions, "an onnxruntime.SessionOptions"
    check_type("register", "session_options", session_options, kind, allowed)
    if session_options not in _registered:
        session_options.register_custom_ops_library(library_path())
        _registered.add(session_options)
