# Everything here works from a fresh clone with python3 (3.11 or newer), pip and make.
# The environment is .venv; it is made on first use and anew when its requirements change.

PYTHON ?= python3
WORKERS ?= auto
DEMO_OUT ?= demo-output

BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-data test-gpu benchmark lint types format clean

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

venv: $(READY) ## Make the environment in .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY) ## Segment sample images with the embedded models, into demo-output/
	$(BIN)/mask2former demo --out $(DEMO_OUT)

test: $(READY) ## The tests that take seconds each; those of real images skip without ../shared
	$(PYTEST) -n $(WORKERS) -m "not slow and not gpu"

test-slow: $(READY) ## The tests that train
	$(PYTEST) -n $(WORKERS) -m "slow and not gpu"

test-data: $(READY) ## The tests that read the real images of ../shared
	$(PYTEST) -n $(WORKERS) -m "data and not gpu"

test-gpu: $(READY) ## The tests that need CUDA
	$(PYTEST) -m gpu

benchmark: $(READY) ## Ours beside transformers: inference, post-processing, a training step; the loader (12 minutes)
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.stages
	$(BIN)/python -m benchmarks.postprocessing
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.loader

lint: $(READY) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types (strict)
	$(BIN)/mypy

format: $(READY) ## Format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove caches and outputs; the environment stays (rm -r .venv)
	rm -rf .mypy_cache .pytest_cache .ruff_cache build dist benchmark-output $(DEMO_OUT)
	find src tests -name __pycache__ -prune -exec rm -rf {} +
