# make demo   a trained checkpoint to an engine to masks on real photographs
# make test   the fast tests           make test-slow   the long proofs
# make lint   ruff, mypy, clang-format
# Each sets up .venv with what it needs, and does nothing twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find trt_plugins -name '*.cpp' -o -name '*.h' -o -name '*.cmake')

.PHONY: demo test test-slow lint format clean

demo: $(VENV)/.installed-demo
	$(BIN)/python benchmarks/demo.py $(if $(IMAGE),--image "$(IMAGE)") $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

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

$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/.torch
	@$(MAKE) --no-print-directory .install EXTRA=dev
	@touch $@ $(VENV)/.installed-demo

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
