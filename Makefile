# Two commands: `make demo` trains a first model, `make test` runs the tests. Both set everything up on a machine that
# has only Python 3.11+ and make. `make lint` is what CI checks besides; `make docs` builds the site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-matrix lint docs clean

demo: $(VENV)/installed
	mkdir -p demo
	cd demo && rm -rf digits-images data/digits
	cd demo && ../$(BIN)/megabatch data example digits-images
	cd demo && ../$(BIN)/megabatch data import digits-images data/digits --split train=0.8,validation=0.1,test=0.1
	cd demo && ../$(BIN)/megabatch launch digits

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow and not matrix" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-matrix: $(VENV)/installed-test
	$(BIN)/python -m pytest -m matrix

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python docs/make_tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/installed-docs: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo
