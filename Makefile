PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-long test-lowest check licences lock docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/installed ## set up .venv with pinned packages (LOCKED=1: with those of CI, by their hashes)

.venv/installed: pyproject.toml constraints.txt .ci/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "condvae needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --require-hashes --requirement .ci/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
endif
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

LOWEST := .venv-lowest
test-lowest: ## run the tests with the oldest packages that pyproject.toml allows, PyTorch's apart
	$(PYTHON) -m venv --clear $(LOWEST)
	$(PYTHON) tools/lowest.py > $(LOWEST)/constraints.txt
	grep -E '^(torch|pytest|hypothesis|ruff|mypy|nbclient|ipykernel)==' constraints.txt >> $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -q -W default  # what is deprecated by now was not then

check: install ## lint, format and type checks; licences, and known faults of packages
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/mypy
	$(BIN)/python tools/licences.py > /dev/null
	$(BIN)/python tools/advisories.py

licences: install ## list the licences of everything that condvae is installed with
	$(BIN)/python tools/licences.py

lock: install ## write what CI installs, with hashes, after a change of constraints.txt
	$(BIN)/python tools/lock.py

docs: install ## build the documentation into build/site, warnings being errors
ifndef LOCKED
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
endif
	$(BIN)/mkdocs build --strict

clean: ## remove what the targets made (not runs/)
	rm -rf .venv .venv-lowest .fuzz build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
