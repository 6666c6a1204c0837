#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds, checks and times the CUDA kernels on this machine, with no network:
#
#   tools/gpu.sh build
#   tools/gpu.sh test                 # writes build/gpu/tests.md
#   tools/gpu.sh bench [arguments]    # those of python -m bench.bench_cuda
#
# It needs a GPU, nvcc, cmake, and a Python ($GPU_PYTHON, python3) with torch, pytest, onnxscript and
# an onnxruntime of any kind; what else there is, it uses.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/build/gpu
report=$folder/tests.md
python=${GPU_PYTHON:-python3}
under=
mkdir -p "$folder"

# Not by pip: its build needs packages that are not the kernels'. For this GPU alone, which takes a
# sixth of the time.
build() {
  target=${GPU_ARCHITECTURE:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader |
    head -n 1 | tr -d .)}
  site=$folder/site
  version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
  # As one list: a function that is a condition does not stop at a failure.
  rm -rf "$site" &&
    cmake -S . -B "$folder/build" -DCMAKE_BUILD_TYPE=Release -DONNXLOSS_CUDA=ON \
      -DONNXLOSS_CUDA_ARCHITECTURES="$target-real" &&
    cmake --build "$folder/build" --parallel "$(nproc)" &&
    cmake --install "$folder/build" --prefix "$site" &&
    cp -r python/onnxloss "$site" && cp -r onnxscript_defs "$site/onnxloss" &&
    mkdir "$site/onnxloss-$version.dist-info" &&
    printf 'Metadata-Version: 2.1\nName: onnxloss\nVersion: %s\n' "$version" \
      >"$site/onnxloss-$version.dist-info/METADATA" &&
    echo "built for sm_$target"
}

# Runs the rest of its arguments as the step that $1 names, and adds its line to the report.
step() {
  name=$1
  shift
  echo "== $name"
  begin=$(date +%s)
  if "$@" >"$folder/step.log" 2>&1; then result=passed; else
    result=FAILED
    failed=1
    tail -n 60 "$folder/step.log"
  fi
  last=$(tail -n 1 "$folder/step.log" | tr -d '|=')
  echo "| $name | $result | $(($(date +%s) - begin)) | $last |" | tee -a "$report"
}

skip() {
  echo "| $1 | skipped | 0 | $2 |" | tee -a "$report"
}

# The warnings of torch on another machine are not about this project.
tests() {
  $under "$python" -m pytest --quiet --no-header -p no:cacheprovider -W ignore::DeprecationWarning \
    -W ignore::FutureWarning "$@"
}

on_provider() {
  ONNXLOSS_PROVIDER=CUDAExecutionProvider tests "$@"
}

sanitize() {
  under="timeout 150 compute-sanitizer --tool $1 --error-exitcode 1"
  tests tests/test_cuda_paths.py \
    -k "every_path and smoothed and (float32 or (bfloat16 and cluster))"
}

test_all() {
  failed=0
  printf '| step | result | seconds | last line |\n| --- | --- | --- | --- |\n' >"$report"
  export ONNXLOSS_CUDA_MACHINE=gpu PYTHONPATH="$folder/site"
  # Without these two, all that follows would be skipped or fail in the same way.
  step "build" build
  [ "$failed" = 0 ] || return 1
  step "GPU" "$python" -m bench.bench_cuda --device
  [ "$failed" = 0 ] || return 1
  step "kernels" tests tests/test_cuda_losses.py tests/test_cuda_paths.py tests/test_cuda_sampled.py
  step "golden cases" tests tests/test_golden*.py -k CUDA
  step "CUDA graphs" tests tests/test_cuda_graph.py
  if "$python" -c "import onnxruntime, sys
sys.exit('CUDAExecutionProvider' not in onnxruntime.get_available_providers())"; then
    step "CUDA provider" on_provider tests/test_losses.py tests/test_sampled.py -k library
  else
    skip "CUDA provider" "this onnxruntime has no CUDAExecutionProvider"
  fi
  for tool in memcheck racecheck initcheck; do
    if command -v compute-sanitizer >/dev/null; then
      step "compute-sanitizer $tool" sanitize "$tool"
    else
      skip "compute-sanitizer $tool" "compute-sanitizer is not installed"
    fi
  done
  echo
  cat "$report"
  return "$failed"
}

bench() {
  build
  PYTHONPATH="$folder/site" "$python" -m bench.bench_cuda "$@"
}

command=$1
shift
case $command in
  build) build ;;
  test) test_all ;;
  bench) bench "$@" ;;
  *)
    echo "tools/gpu.sh: the command is $command; expected build, test or bench." >&2
    exit 2
    ;;
esac
