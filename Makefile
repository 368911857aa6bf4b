# make demo   a trained checkpoint to an engine to masks on real photographs
# make test   the fast tests           make test-slow   the long proofs
# make bench  Mask2Former in every CPU runtime beside ours (SIZE=HxW, THREADS=N)
# make report one page from benchmarks/results: artifacts/report.html
# make lint   ruff, mypy, clang-format
# make gpu-check   on a machine with an NVIDIA GPU: everything that needs one (DATA=DIR: accuracy too)
# Each sets up .venv with what it needs, and does nothing twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find trt_plugins -name '*.c*' -o -name '*.h')
GPU := $(wildcard /dev/nvidiactl /dev/nvhost-gpu /dev/nvgpu /usr/lib/wsl/lib/libcuda.so.1)
CUDA_MAJOR = $(shell PATH="$$PATH:/usr/local/cuda/bin" nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p')
comma := ,

.PHONY: demo test test-slow bench report gpu-check lint format clean

demo: $(VENV)/.installed-demo
	$(BIN)/python benchmarks/demo.py $(if $(IMAGE),--image "$(IMAGE)") $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/compare_peers.py $(if $(SIZE),--size $(SIZE)) $(if $(THREADS),--threads $(THREADS))

report: $(VENV)/.installed-demo
	$(BIN)/python benchmarks/report.py

gpu-check: $(if $(GPU),.venv-gpu/.installed,$(VENV)/.installed-demo)
	$(if $(GPU),.venv-gpu/bin,$(BIN))/python benchmarks/gpu_check.py $(if $(DATA),--data "$(DATA)")

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -r $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -r $(BIN)/clang-format -i

# The demo's packages are a part of the developer's: one install satisfies both targets.
$(VENV)/.installed-demo: $(SOURCES) | $(VENV)/.torch
	@test -f $(VENV)/.installed-dev && extra=dev || extra=demo; $(MAKE) --no-print-directory .install EXTRA=$$extra
	@touch $@

# panopticapi-lite, the oracle of PQ, asks for NumPy below 2 and runs on 2 as well: without its dependencies (decision 9).
# The real Triton server (x86-64) and a second TensorRT's plugin registry are used from folders of their own: the server's
# Python backend needs NumPy below 2, and one environment holds one TensorRT. Where they are not, their tests are skipped.
$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/.torch
	@$(MAKE) --no-print-directory .install EXTRA=dev
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt panopticapi-lite
	@$(if $(filter x86_64,$(shell uname -m)),$(MAKE) --no-print-directory .install-apart)
	@touch $@ $(VENV)/.installed-demo

# Likewise: the demo's packages and the peers', beside the developer's where those are.
$(VENV)/.installed-bench: $(SOURCES) | $(VENV)/.torch
	@test -f $(VENV)/.installed-dev && extra=dev,bench || extra=bench; $(MAKE) --no-print-directory .install EXTRA=$$extra
	@touch $@ $(VENV)/.installed-demo $$(ls $(VENV)/.installed-dev 2>/dev/null)

# On a GPU's machine: an environment that sees TensorRT and OpenCV as JetPack installs them, with cuda-python of the
# toolkit's major version, which is the driver's; TensorRT itself from PyPI where the machine has none.
.venv-gpu/.installed: $(SOURCES)
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv --system-site-packages .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -e '.[gpu-check]' \
	  'cuda-python>=12.6$(if $(CUDA_MAJOR),$(comma)<$(shell expr $(CUDA_MAJOR) + 1))'
	.venv-gpu/bin/python -c 'import tensorrt' || .venv-gpu/bin/pip install --quiet tensorrt$(CUDA_MAJOR:%=-cu%)
	@touch $@

.PHONY: .install-apart
.install-apart:
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/triton-server \
	  'nvidia-pytriton==0.7.*' 'numpy<2'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/tensorrt-lean-10 \
	  'tensorrt-lean-cu13-libs==10.*' 'tensorrt-lean-cu13-bindings==10.*'

.PHONY: .install
.install:
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA)]'

# PyTorch alone and first: what follows is then satisfied with the build that is here.
$(VENV)/.torch: | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build artifacts
