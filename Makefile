# `make help` lists the targets. Any target that needs .venv creates it first, with everything in it.
PYTHON ?= python3
# Exact versions with hashes; `make setup LOCK=` installs the newest that pyproject.toml allows instead.
LOCK ?= requirements.lock
CONFIG ?= configs/digits_dit.yaml
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
# uv, where it is installed, does the same as pip in less time.
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/pip install --quiet)

.DEFAULT_GOAL := help
.PHONY: help setup lock train compare plan test soak lint format types docs site notebooks pages bench results tensorboard clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with everything

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dbl needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
ifeq ($(LOCK),)
	$(INSTALL) --editable ".[dev]"
else
	$(INSTALL) --require-hashes --requirement $(LOCK)
	$(INSTALL) --no-deps --no-build-isolation --editable .
endif
	@touch $@

lock: $(READY) ## write requirements.lock anew after a change of pyproject.toml  [ARGS=--upgrade for newer versions]
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --quiet \
	  --no-config --no-emit-index-url --exclude-newer "1 week" \
	  --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)

train: $(READY) ## train all blocks, assemble, evaluate, report   [CONFIG=configs/... ARGS="--trainer.max_steps 400"]
	$(BIN)/dbl train --config $(CONFIG) $(ARGS)

compare: $(READY) ## the same, and the end-to-end network          [CONFIG=configs/... ARGS=...]
	$(BIN)/dbl compare --config $(CONFIG) $(ARGS)

plan: $(READY) ## plan the memory of a training step            [CONFIG=configs/... ARGS="--fit 12GB"]
	$(BIN)/dbl plan --config $(CONFIG) $(ARGS)

test: $(READY) ## run the tests on all cores
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

soak: $(READY) ## 300 kills, 20 rounds of commands at once, fuzzing  [DBL_SOAK_SEED=0 DBL_SOAK_KILLS=300]
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults tests/security -m soak --capture=no

lint: $(READY) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY) ## fix style and format where possible
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(READY) ## check types
	$(BIN)/mypy

docs: $(READY) ## generate the tables in docs/ from the code
	$(BIN)/python -m docs.tables docs/configuration.md docs/api.md

site: $(READY) ## build the documentation site in build/site; a link that leads nowhere is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet -c docs/site . build/site

notebooks: $(READY) ## run the notebooks; copies with outputs go to build/notebooks
	$(BIN)/jupyter-nbconvert --execute --to notebook --output-dir build/notebooks notebooks/*.ipynb

pages: notebooks ## write docs/notebooks, the pages with pictures, from these copies
	$(BIN)/python -m docs.notebook_pages build/notebooks docs/notebooks

bench: $(READY) ## measure speed and memory, every figure with its goal  [ARGS="blocks official_vit"]
	$(BIN)/python -m benchmarks $(ARGS)

results: $(READY) ## train what README's figures need, and write its table [ARGS="digits_dit --seeds 0"]
	$(BIN)/python -m benchmarks.results $(ARGS)

tensorboard: $(READY) ## show the logs of all runs
	$(BIN)/tensorboard --logdir runs

clean: ## remove caches, but not runs and .venv
	rm -rf .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
