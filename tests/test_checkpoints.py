# SPDX-License-Identifier: MIT
"""Checkpoints: whole after any kill, refused when they are not what they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import onnxloss
from onnxloss.training import checkpoint
from onnxloss.training.checkpoint import load_checkpoint, save_checkpoint
from tests.forward_models import Arrays

ROOT = Path(__file__).parent.parent
KILLS = 60
TENSORS: Arrays = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1, -2], np.float16),
    "brain": np.array([[1.5]], ml_dtypes.bfloat16),
    "wide": np.array(np.pi),
    "step": np.array(7),
    "empty": np.zeros((0, 2), np.float32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, TENSORS, {"epoch": 3, "note": "é"})
    return path


def test_what_was_saved_is_loaded(path: Path) -> None:
    tensors, info = load_checkpoint(path)
    assert info == {"epoch": 3, "note": "é"}
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
    assert os.listdir(path.parent) == [path.name]


def test_other_programs_read_it(path: Path) -> None:
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["w"], TENSORS["w"])


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.checkpoint_kills", tmp_path / "c", str(KILLS)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saved, cut_off = (int(word) for word in done.stdout.split() if word.isdigit())
    assert saved > 0 and cut_off > 0


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in (*range(0, len(data), 7), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(onnxloss.LossError, match=r"cut off|no complete safetensors"):
            load_checkpoint(path)


def test_a_changed_file_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for at in (len(data) - 1, len(data) - 40, data.index(b"epoch")):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(onnxloss.LossError, match=r"the checksum of .* is "):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"\x80\x04 a pickle, say"),
        lambda path: path.write_bytes(b""),
        lambda path: safetensors.numpy.save_file({"w": np.ones(3)}, path),
        lambda path: safetensors.numpy.save_file({"w": np.ones(3)}, path, {"format": "pt"}),
    ],
)
def test_a_foreign_file_is_refused(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    with pytest.raises(onnxloss.LossError, match=r"expected onnxloss.training/1: the f"):
        load_checkpoint(path)


def test_a_failed_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
