PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-long check licences docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/installed ## set up .venv with pinned packages

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "condvae needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## train on 5,000 digits, draw the pictures and measure: runs/demo, about 3 minutes
	@rm -rf runs/demo
	$(BIN)/condvae train mnist-sample --out runs/demo
	@echo "drawing the pictures ..."
	@$(BIN)/condvae swap runs/demo
	@echo "measuring: likelihood, then an independent judge of labels (trained now, if it is new) ..."
	@$(BIN)/condvae evaluate runs/demo
	@echo "all of it:"; ls runs/demo/figures/*.png runs/demo/evaluation.json runs/demo/README.md

test: install ## run the tests (slow ones too, but not test-long); under 8 minutes on 2 cores
	$(BIN)/python -m pytest -q

test-fast: install ## run the tests that take a moment each
	$(BIN)/python -m pytest -q -m 'not slow and not long'

test-long: install ## run what takes minutes: the quick start as written, kills, the notebooks
	$(BIN)/python -m pytest -q -m long

check: install ## lint, format and type checks; licences, and known faults of packages
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/mypy
	$(BIN)/python tools/licences.py > /dev/null
	$(BIN)/python tools/advisories.py

licences: install ## list the licences of everything that condvae is installed with
	$(BIN)/python tools/licences.py

docs: install ## build the documentation into build/site, warnings being errors
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean: ## remove what the targets made (not runs/)
	rm -rf .venv .fuzz build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
