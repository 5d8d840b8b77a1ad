# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`. Each builds what it needs.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   install, fetch the embedded model (1.1 GB, once), learn and compare; about 6 minutes on 2 cores"
	@echo "make test   install and run every check, as CI does"

demo: $(VENV)/.demo
	$(BIN)/tokenprior learn examples/demo/demo.yaml
	$(BIN)/tokenprior compare examples/demo/demo.yaml

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: install one, or say make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[local]'
	@touch $@

$(VENV)/.test: pyproject.toml tests/node/package.json | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@if command -v npm >/dev/null 2>&1; then cd tests/node && npm install --silent --no-package-lock --no-audit --no-fund; \
	else echo "npm is not here: tests of the Node client and of accessibility are skipped"; fi
	@command -v chromium >/dev/null 2>&1 || echo "chromium is not here: tests of the pages are skipped"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
