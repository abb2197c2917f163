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
# The oldest torch that is supported, the pinned one, and whatever pip finds.
MATRIX := 2.11.0 $(shell sed -n s/^torch==//p constraints.txt) newest
SUITE := -m pytest -n $(JOBS) --dist loadgroup
PYTEST := $(BIN)/python $(SUITE)

.PHONY: help venv setup hooks demo test test-with matrix coverage lint format types docs picture report-picture golden fuzz fuzz-tests bench-compile clean

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

hooks: setup  ## check style and types before every commit (pre-commit)
	$(BIN)/pre-commit install

demo: setup  ## train a small GPT on 2 processes, Inductor alone against domino (writes out/demo)
	$(BIN)/python examples/demo.py $(ARGS)

test: setup  ## run the whole test suite (ARGS="-k name" selects)
	$(PYTEST) $(ARGS)

test-with: setup  ## run the whole test suite with another torch: make test-with TORCH=2.14.1
	@if [ -z "$(TORCH)" ]; then echo "error: name a version: make test-with TORCH=2.14.1" >&2; exit 1; fi
	$(BIN)/python -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --disable-pip-version-check --upgrade --constraint <(grep -v '^torch==' constraints.txt) --editable '.[dev]' 'torch$(if $(filter newest,$(TORCH)),,==$(TORCH))'
	$(OTHER)/bin/python $(SUITE) $(ARGS)

matrix:  ## run the whole suite with each supported torch: 2.11, the pinned one, the newest
	@for torch in $(MATRIX); do echo "== torch $$torch"; $(MAKE) test-with TORCH=$$torch; done

coverage: setup  ## measure the coverage of the suite: htmlcov/ and docs/coverage.md
	rm -f .coverage .coverage.*
	$(BIN)/coverage run $(SUITE) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	mkdir -p out && $(BIN)/coverage json --quiet -o out/coverage.json
	$(BIN)/python docs/site/coverage_table.py out/coverage.json

lint: setup  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## format, and fix what can be fixed by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup  ## check types strictly
	$(BIN)/mypy

.venv/.docs: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: .venv/.docs  ## build the guides and the API reference into out/docs; any warning fails
	$(BIN)/python -m sphinx -b html -c docs/site -d out/doctrees -W --keep-going --quiet . out/docs

picture: setup  ## draw docs/architecture.svg and its table anew
	$(BIN)/python docs/site/architecture.py

report-picture: setup  ## take docs/report.png anew, in a Chromium that is installed
	$(BIN)/python docs/site/report_picture.py

golden: setup  ## rewrite the golden files under tests/golden; review the diff
	$(PYTEST) --update-golden $(ARGS)

fuzz: setup  ## run random programs, cut against uncut, for MINUTES=5; out/fuzz.json adds up
	@mkdir -p out
	$(BIN)/python -m benchmarks.fuzz --programs 10000 --workers $(JOBS) --minutes $(MINUTES) --out out/fuzz.json $(ARGS)

fuzz-tests: setup  ## run the property tests with many examples and new seeds for MINUTES=5
	@end=$$(( $$(date +%s) + $(MINUTES) * 60 )); \
	while [ $$(date +%s) -lt $$end ]; do \
	    seed=$$(( RANDOM * 32768 + RANDOM )); echo "== seed $$seed"; \
	    $(PYTEST) -x -q -m hypothesis --hypothesis-profile=fuzz --hypothesis-seed=$$seed $(ARGS); \
	done

bench-compile: setup  ## measure compile time against the number of layers
	$(BIN)/python benchmarks/compile_time.py $(ARGS)

clean:  ## remove .venv, caches, builds and out/
	rm -rf .venv .venv-torch-* build dist out htmlcov .coverage .coverage.* *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis torch_compile_debug
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
