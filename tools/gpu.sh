#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds, checks and times the CUDA kernels on this machine, with no network:
#
#   tools/gpu.sh build                # into build/gpu/site
#   tools/gpu.sh test                 # writes build/gpu/tests.md
#   tools/gpu.sh bench [arguments]    # those of python -m bench.bench_cuda
#
# It needs a GPU, nvcc, cmake, and a Python ($GPU_PYTHON, python3) with torch, pytest, onnxscript and
# an onnxruntime of any kind; what else there is, it uses. What may be set:
#
#   GPU_ARCHITECTURE=90    to build for it, where no GPU is
#   GPU_SITE=FOLDER        a site that was built elsewhere, instead of building
#   GPU_OUT=FOLDER         where tests.md goes
#   GPU_MINUTES=8          end within so many, the build included
#   GPU_BEGAN=SECONDS      they count from then, as `date +%s` has it, instead of from the start
set -eu
[ -z "${GPU_SITE:-}" ] || GPU_SITE=$(realpath "$GPU_SITE")
[ -z "${GPU_OUT:-}" ] || GPU_OUT=$(realpath "$GPU_OUT")
cd "$(dirname "$0")/.."
folder=$PWD/build/gpu
site=${GPU_SITE:-$folder/site}
path=$site${PYTHONPATH:+:$PYTHONPATH}
report=${GPU_OUT:-$folder}/tests.md
python=${GPU_PYTHON:-python3}
export GPU_BEGAN="${GPU_BEGAN:-$(date +%s)}"
# CUDA's tools need not be on the path.
export PATH="$PATH:/usr/local/cuda/bin"
if command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
under=
most=36000 # seconds of a step
mkdir -p "$folder" "${GPU_OUT:-$folder}"

# The seconds that are left of the minutes, if there are any.
left() {
  echo $((GPU_BEGAN + 60 * ${GPU_MINUTES:-600} - $(date +%s)))
}

# Not by pip: its build needs packages that are not the kernels'. For this GPU alone, which takes a
# sixth of the time.
build() {
  if [ -n "${GPU_SITE:-}" ]; then
    echo "built elsewhere: $GPU_SITE"
    return
  fi
  target=${GPU_ARCHITECTURE:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader |
    head -n 1 | tr -d .)}
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
  if [ "$(left)" -le 0 ]; then
    skip "$name" "the ${GPU_MINUTES:-600} minutes had ended"
    return
  fi
  echo "== $name"
  begin=$(date +%s)
  if "$@" >"$folder/step.log" 2>&1; then result=passed; else
    # Of timeout.
    [ $? != 124 ] || echo "stopped: too little time was left" >>"$folder/step.log"
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
  seconds=$(left)
  [ "$seconds" -lt "$most" ] || seconds=$most
  [ "$seconds" -gt 0 ] || seconds=1 # 0 would be no limit
  timeout --kill-after=10 "$seconds" $under "$python" -m pytest --quiet --no-header \
    -p no:cacheprovider -W ignore::DeprecationWarning -W ignore::FutureWarning "$@"
}

# Most of a test's time is the host's.
in_parallel() {
  if "$python" -c "import xdist" 2>/dev/null; then
    set -- "$@" --numprocesses="$(nproc)" --maxprocesses=8 --dist=worksteal
  fi
  tests "$@"
}

on_provider() {
  ONNXLOSS_PROVIDER=CUDAExecutionProvider in_parallel "$@"
}

sanitize() {
  most=150
  under="compute-sanitizer --tool $1 --error-exitcode 1"
  tests tests/test_cuda_paths.py \
    -k "every_path and smoothed and (float32 or (bfloat16 and cluster))"
}

test_all() {
  failed=0
  printf '| step | result | seconds | last line |\n| --- | --- | --- | --- |\n' >"$report"
  export ONNXLOSS_CUDA_MACHINE=gpu PYTHONPATH="$path"
  # Without these two, all that follows would be skipped or fail in the same way.
  step "build" build
  [ "$failed" = 0 ] || return 1
  step "GPU" "$python" -m bench.bench_cuda --device
  [ "$failed" = 0 ] || return 1
  step "clusters" tests tests/test_cuda_device.py
  step "kernels" in_parallel tests/test_cuda_losses.py tests/test_cuda_paths.py \
    tests/test_cuda_sampled.py
  step "golden cases" in_parallel tests/test_golden*.py -k CUDA
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
  PYTHONPATH="$path" "$python" -m bench.bench_cuda ${GPU_MINUTES:+--minutes "$GPU_MINUTES"} "$@"
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
