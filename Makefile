# One command each; `make help` lists them. Everything installs into .venv, nothing outside it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?=
MINUTES ?= 5
JOBS ?= 3
ARGS ?=
TORCH ?=
BIN := .venv/bin
STAMP := .venv/.installed
OTHER := .venv-torch-$(TORCH)
SOURCES := domino_compile tests examples benchmarks passes
SUITE := -m pytest -n $(JOBS) --dist loadgroup
PYTEST := $(BIN)/python $(SUITE)

.PHONY: help venv setup demo test test-with lint format types golden fuzz bench-compile clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

venv: setup  ## same as setup

setup: $(STAMP)  ## create .venv and install the package with its development tools

$(STAMP): pyproject.toml constraints.txt
	@python=; \
	for candidate in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
	    if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "error: Python 3.11 or newer with the venv module is needed; name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then echo "creating .venv with $$($$python --version)"; $$python -m venv --clear .venv; fi
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup  ## train a small GPT on 2 processes, Inductor alone against domino (writes out/demo)
	$(BIN)/python examples/demo.py $(ARGS)

test: setup  ## run the whole test suite (ARGS="-k name" selects)
	$(PYTEST) $(ARGS)

test-with: setup  ## run the whole test suite with another torch: make test-with TORCH=2.14.1
	@if [ -z "$(TORCH)" ]; then echo "error: name a version: make test-with TORCH=2.14.1" >&2; exit 1; fi
	$(BIN)/python -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --disable-pip-version-check --constraint <(grep -v '^torch==' constraints.txt) --editable '.[dev]' 'torch==$(TORCH)'
	$(OTHER)/bin/python $(SUITE) $(ARGS)

lint: setup  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## format, and fix what can be fixed by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup  ## check types strictly
	$(BIN)/mypy

golden: setup  ## rewrite the golden files under tests/golden; review the diff
	$(PYTEST) --update-golden $(ARGS)

fuzz: setup  ## run the property tests with many examples and new seeds for MINUTES=5
	@end=$$(( $$(date +%s) + $(MINUTES) * 60 )); \
	while [ $$(date +%s) -lt $$end ]; do \
	    seed=$$(( RANDOM * 32768 + RANDOM )); echo "== seed $$seed"; \
	    $(PYTEST) -x -q -m hypothesis --hypothesis-profile=fuzz --hypothesis-seed=$$seed $(ARGS); \
	done

bench-compile: setup  ## measure compile time against the number of layers
	$(BIN)/python benchmarks/compile_time.py $(ARGS)

clean:  ## remove .venv, caches, builds and out/
	rm -rf .venv .venv-torch-* build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis torch_compile_debug
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
