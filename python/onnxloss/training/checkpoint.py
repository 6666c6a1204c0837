# SPDX-License-Identifier: MIT
"""Checkpoints: safetensors files with a checksum, replaced whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LossError, expected
from .values import BFLOAT16

FORMAT = "onnxloss.training/1"


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> None:
    """Writes a checkpoint beside `path`, has it on the disk, and renames it.

    Whoever is killed at any moment leaves the old file or the new one under `path`, never a part.

    Args:
        path: The file; one that is there is replaced.
        tensors: The arrays by name.
        info: What JSON can hold.

    Raises:
        LossError: The safetensors package is missing.
        OSError: The file cannot be written; one that was there is as it was.
    """
    path = Path(path)
    safetensors = _import_safetensors()
    stored = {name: _storable(array) for name, array in tensors.items()}
    halves = sorted(name for name, array in tensors.items() if array.dtype == BFLOAT16)
    metadata = {"format": FORMAT, "info": json.dumps(info), "bfloat16": json.dumps(halves)}
    metadata["sha256"] = _checksum(stored, metadata)
    data = safetensors.numpy.save(stored, metadata)
    beside = path.with_name(f"{path.name}.new")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


def check_place(where: str, path: str | os.PathLike[str]) -> None:
    """Refuses a checkpoint that could not be written, before hours of training.

    Raises:
        LossError: Its folder does not exist or cannot be written to, or it is a folder itself; or
            the safetensors package is missing.
    """
    _import_safetensors()
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        allowed = "a file in a folder that exists and can be written to"
        raise expected(where, "checkpoint", str(path), allowed)


def load_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the info of a checkpoint.

    Raises:
        LossError: The file is no checkpoint of this package, is cut off or has changed.
        OSError: The file cannot be read.
    """
    safetensors = _import_safetensors()
    data = Path(path).read_bytes()
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT:
        raise LossError(
            f"load_checkpoint: the format of {path} is {metadata.get('format')}; expected "
            f"{FORMAT}: the file is cut off, or Trainer.save did not write it."
        )
    try:
        tensors = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise LossError(
            f"load_checkpoint: {path} is no complete safetensors file: {error}; expected a file "
            "that Trainer.save wrote."
        ) from error
    given = metadata.pop("sha256", None)
    if given != _checksum(tensors, metadata):
        raise LossError(
            f"load_checkpoint: the checksum of {path} is {given}, which is not that of its "
            "contents; expected a file as Trainer.save wrote it."
        )
    for name in json.loads(metadata["bfloat16"]):
        tensors[name] = tensors[name].view(BFLOAT16)
    return tensors, json.loads(metadata["info"])


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; none of what is no such file."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(header["__metadata__"])
    except (ValueError, KeyError, TypeError):
        return {}


def _storable(array: np.ndarray) -> np.ndarray:
    """The array as numpy's own dtypes hold it: safetensors reads no bfloat16 into numpy."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return array.view(np.uint16) if array.dtype == BFLOAT16 else array


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that the file says, in the order of the names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _import_safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise LossError(
            "save_checkpoint: the safetensors package is missing; expected it for checkpoints: "
            'pip install "onnxloss[train]".'
        ) from error
    return safetensors
