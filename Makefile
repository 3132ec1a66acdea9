# One list of commands; CI calls nothing else. `make` alone prints it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install demo up test unit lint fmt types contracts bench bench-quick growth minilm models adaptive faults deliveries rollout settings constraints wheel clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install umbel with everything into it

# Done again only when the dependencies or their pins have changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "umbel needs Python 3.11 or newer; name one: make install PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing umbel and its pinned dependencies into $(VENV) (minutes, the first time)"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## start everything here, submit jobs and show their results
	@$(BIN)/umbel demo

up: install ## start an embedded Redis, a worker and a flusher
	@$(BIN)/umbel up

test: lint types contracts ## check everything: style, types, layers and all tests
	@echo "tests"
	@BIN=$(BIN) sh scripts/run_tests.sh

unit: install ## run the unit tests alone
	@$(BIN)/python -m pytest -q tests/unit

lint: install ## check style, formatting, lengths and the rendered settings
	@echo "style"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/python scripts/check_lengths.py
	@$(BIN)/python scripts/render_settings.py --check

fmt: install ## format the code and mend what can be mended
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

types: install ## check types of code and tests
	@echo "types"
	@$(BIN)/mypy

contracts: install ## check that imports run downwards only
	@echo "layers"
	@$(BIN)/lint-imports

bench: install ## measure against raw torch, Celery, celery-batches, mosec and LitServe (10 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m suite

bench-quick: install ## the same in short; only prints (5 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m suite --quick

growth: install ## measure curves over batch size, depth, producers, workers, lanes, payload (8 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m growth

faults: install ## kill, freeze, cut off and poison real processes, and count the jobs (10 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m faults

deliveries: install ## measure callbacks: bad receivers, killed senders, deliveries per second (5 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m deliveries

rollout: install ## push, promote, roll back and retire under load, and look at every job (4 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m rollout

minilm: install ## measure sentence embeddings: padding and speed, sorted and not, alone and through umbel (5 minutes)
	@$(BIN)/python benchmarks/minilm.py

models: install ## measure twenty models on a worker that may hold five, and its memory (3 minutes)
	@$(BIN)/python benchmarks/many_models.py

adaptive: install ## compare adaptive batching with the best static size, and turn the machine (5 minutes)
	@PYTHONPATH=benchmarks $(BIN)/python -m adaptive

settings: install ## write configs/umbel.yaml and the tables of settings anew
	@$(BIN)/python scripts/render_settings.py

constraints: ## write constraints.txt anew from the newest versions
	@PYTHON=$(PYTHON) sh scripts/refresh_constraints.sh

wheel: install ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation

clean: ## remove .venv, .bench and everything that tools have left behind
	@rm -rf $(VENV) .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
