# SPDX-License-Identifier: MIT
"""The C ABI: our declarations against ONNX Runtime's header, and what the library exports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import onnxloss

ROOT = Path(__file__).parents[1]
HEADER = "onnxruntime_c_api.h"
BOTH = ("RegisterCustomOps", "OnnxLossSetInstructionSet")


def header_directory() -> Path | None:
    """The directory of the official header: the environment's, else the usual ones."""
    named = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    usual = (
        Path(prefix) / "include" / folder
        for prefix in ("/usr", "/usr/local")
        for folder in ("onnxruntime", "onnxruntime/core/session", ".")
    )
    for directory in (Path(named),) if named else usual:
        if (directory / HEADER).is_file():
            return directory
    return None


def compile_conformance(ours: Path, official: Path) -> subprocess.CompletedProcess[str]:
    """The compiler's verdict on tests/cpp/abi_conformance.cc with `ours` as source root."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler found")
    command = [compiler, "-std=c++17", "-fsyntax-only", "-w", f"-I{ours}", f"-I{official}"]
    source = str(ROOT / "tests" / "cpp" / "abi_conformance.cc")
    return subprocess.run([*command, source], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def official() -> Path:
    directory = header_directory()
    if directory is None:
        pytest.skip(f"{HEADER} found neither in ONNXRUNTIME_INCLUDE_DIR nor below /usr")
    return directory


def test_declarations_agree_with_the_official_header(official: Path) -> None:
    result = compile_conformance(ROOT / "ops", official)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("text", "replacement", "complaint"),
    [
        ("void* unused_63[2]", "void* unused_63[3]", "GetTensorTypeAndShape lies elsewhere"),
        ("float* out);", "double* out);", "KernelInfoGetAttribute_float has another type"),
        ("INPUT_OUTPUT_OPTIONAL = 1", "INPUT_OUTPUT_OPTIONAL = 2", "INPUT_OUTPUT_OPTIONAL differs"),
    ],
)
def test_conformance_sees_a_wrong_declaration(
    official: Path, tmp_path: Path, text: str, replacement: str, complaint: str
) -> None:
    declarations = (ROOT / "ops" / "ort" / "ort_abi.h").read_text()
    assert text in declarations
    wrong = tmp_path / "ort" / "ort_abi.h"
    wrong.parent.mkdir()
    wrong.write_text(declarations.replace(text, replacement, 1))
    result = compile_conformance(tmp_path, official)
    assert result.returncode != 0
    assert complaint in result.stderr


def symbols(*options: str) -> list[str]:
    """What `nm` lists of the library, demangled."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    listing = subprocess.run(
        [nm, "-C", *options, onnxloss.library_path()], capture_output=True, text=True, check=True
    )
    return listing.stdout.splitlines()


def test_library_exports_two_functions() -> None:
    """Besides those for the CUDA kernels, where it was built with them."""
    names = {line.split(maxsplit=2)[-1] for line in symbols("-D", "--defined-only")}
    assert {name for name in names if not name.startswith("OnnxLossCuda")} == set(BOTH)


def test_kernels_of_different_instruction_sets_share_no_code(tmp_path: Path) -> None:
    """An inline function of two objects would run on the machine of only one of them."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    nm = shutil.which("nm")
    if compiler is None or nm is None:
        pytest.skip("no C++ compiler or no nm found")
    build = (ROOT / "CMakeLists.txt").read_text()
    kernels = build[build.index("function(add_kernels") : build.index("endfunction()")]
    sources = re.findall(r"ops/cpu/\w+\.cc", kernels)
    assert sources
    for source in sources:
        built = tmp_path / "kernels.o"
        # Unoptimised, so that every inline function that is used leaves a symbol.
        options = ["-std=c++17", "-O0", "-fno-exceptions", "-w", f"-I{ROOT / 'ops'}"]
        command = [compiler, *options, "-DONNXLOSS_TARGET=v9", "-o", str(built), "-c", source]
        subprocess.run(command, cwd=ROOT, check=True)
        listing = subprocess.run(
            [nm, "--defined-only", str(built)], capture_output=True, text=True, check=True
        )
        # W and V are weak symbols, u unique ones: the linker keeps one of each name. As the linker
        # has them, since nm does not read the names of all lambdas.
        shared = [
            line
            for line in listing.stdout.splitlines()
            if re.match(r"^[0-9a-f]+ [WVu] ", line) and "8onnxloss2v9" not in line
        ]
        assert shared == []
