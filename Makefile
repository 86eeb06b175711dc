# Everything here runs on a fresh machine with Python 3.11+, pip and make. VENV and PYTHON may be overridden.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint clean

# torch comes first and by itself, at the one supported release: a wider request would bring CUDA to machines without a GPU.
$(VENV)/.setup: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.test-setup: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

setup: $(VENV)/.setup

demo: setup
	$(BIN)/landrace demo

lint: $(VENV)/.test-setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/.test-setup lint
	$(BIN)/landrace pull smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
