# Every target but `help` and `clean` first makes .venv, and renews it when pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
BENCHMARKS := $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

.PHONY: help demo test test-slow test-models check format bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing hf-datadiet and its tools into .venv: about 6 GB with CUDA, a few minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/.installed  ## score, prune and evaluate 8x8 digits offline, on a CPU
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=2 $(BIN)/hf-datadiet run recipes/digits.yaml

# One process for each core, up to eight; a file of tests stays together, for what its tests share.
SPREAD := --numprocesses auto --maxprocesses 8 --dist loadfile

test: .venv/.installed  ## the quick tests, offline
	$(BIN)/python -m pytest $(SPREAD)

test-slow: .venv/.installed  ## the tests that take minutes
	$(BIN)/python -m pytest $(SPREAD) -m "slow and not models"

test-models: .venv/.installed  ## gradient norms of a model of every family of timm, and of transformers' classifiers
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 -m models

check: .venv/.installed  ## format, lint, types, import contracts
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo --no-cache

format: .venv/.installed  ## format the code and mend what ruff can
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

bench: .venv/.installed  ## every script in benchmarks/, one after the other
	@set -e; for script in $(BENCHMARKS); do \
		echo "== $$script"; \
		$(BIN)/python -m benchmarks.$$(basename $$script .py); \
	done

clean:  ## remove caches and builds; keeps .venv and runs/
	rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
