# Everything here runs on a fresh machine with Python 3.11+, pip and make. VENV and PYTHON may be overridden.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

NATIVE_SOURCES := CMakeLists.txt $(wildcard landrace/kernels/cpu/csrc/* landrace/kernels/cpu/csrc/ops/*)

# The chat page, of its sources and of the libraries that web/package-lock.json names with their hashes.
PAGE := landrace/server/page/static/index.html
PAGE_SOURCES := $(wildcard web/*.* web/src/*.ts web/src/*/*.ts web/styles/*.*)

.PHONY: setup demo page page-if-npm test test-all lint native sanitize clean

# torch comes first and by itself, at the one supported release: a wider request would bring CUDA to machines without a GPU.
# The C++ kernels are compiled on the way when a compiler is there.
$(VENV)/.setup: pyproject.toml $(NATIVE_SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.test-setup: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

setup: $(VENV)/.setup page-if-npm

$(PAGE): $(PAGE_SOURCES)
	cd web && npm ci --ignore-scripts --loglevel=error && npm run --silent check && npm run --silent build
	touch $@

page: $(PAGE)

# Everything else works without the page; the server then says at / how to build it.
page-if-npm:
	@if command -v npm >/dev/null; then $(MAKE) page || echo "The chat page was not built: see above."; fi

demo: setup
	$(BIN)/landrace demo

lint: $(VENV)/.test-setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `test` leaves out the long matrix (CONTRIBUTING.md); continuous integration runs `test-all`.
test: SELECTED := -m "not long"
test test-all: $(VENV)/.test-setup lint page-if-npm
	$(BIN)/landrace pull smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(SELECTED)

# An environment that is there is taken as it is.
$(BIN)/python:
	$(MAKE) $(VENV)/.test-setup

CMAKE := PATH="$(abspath $(BIN)):$$PATH" cmake
CONFIGURE = $(BIN)/python -m pip install --quiet 'nanobind>=2.9,<4' 'cmake>=3.20' 'ninja>=1.11' && \
	$(CMAKE) -S . -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python)

# The C++ kernels alone, into the checkout: what an edit needs, and with the compiler's messages.
native: | $(BIN)/python
	$(CONFIGURE) -B build/native -DLANDRACE_IN_PLACE=ON
	$(CMAKE) --build build/native

# The kernels' tests on a build that stops at the first access out of bounds or undefined operation. GCC only: Python was
# not linked with its run-time libraries, so they are loaded before it. libstdc++ with them, or they miss its exceptions.
SANITIZERS = $(foreach library,libasan.so libubsan.so libstdc++.so.6,$(shell $(CXX) -print-file-name=$(library)))
SANITIZE_TESTS ?= tests/kernels
empty :=
space := $(empty) $(empty)

sanitize: | $(BIN)/python
	$(CONFIGURE) -B build/sanitize -DCMAKE_CXX_COMPILER=$(CXX) -DLANDRACE_SANITIZE=ON
	$(CMAKE) --build build/sanitize
	LANDRACE_NATIVE_DIR=$(abspath build/sanitize) LD_PRELOAD=$(subst $(space),:,$(strip $(SANITIZERS))) \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest --capture=sys -p no:cacheprovider $(SANITIZE_TESTS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis landrace/kernels/cpu/_native* \
		web/node_modules landrace/server/page/static
