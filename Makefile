# Everything from a bare Python >= 3.11: each target creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

PYIQA := .venv-pyiqa
PYIQA_PIP := $(PYIQA)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help install install-dev demo docs board board-tables gallery test test-pyiqa soundness bench lint types clean

help:
	@echo "make install   make .venv and install into it"
	@echo "make demo   install, run the quick suite on the embedded data, print the board (minutes)"
	@echo "make board   run the suites of the repository's board as far as their data and weights are here (hours; resumes)"
	@echo "make board-tables   write its tables, its picture and the README's section again, from the records (seconds)"
	@echo "make soundness   hold every certified method against known truths and attacks (minutes)"
	@echo "make bench   measure speed as ratios to the bare network and to peers, write docs/speed.md (half an hour)"
	@echo "make docs   write the API reference to build/docs"
	@echo "make gallery   write docs/attacks.md and docs/defenses.md again, with pictures (minutes)"
	@echo "make test   install, then lint, types and fast tests"
	@echo "make test-pyiqa   the tests of pyiqa's metrics, in an environment of their own (1.6 GB more, noncommercial)"

# The stamps depend on what decides the environment; a changed pyproject.toml installs again.
$(VENV)/stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("robustiqa needs Python >= 3.11, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	$(PIP) --no-deps torchattacks
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/robustiqa
	touch $@

$(VENV)/stamp-dev: $(VENV)/stamp
	$(PIP) --editable '.[dev,onnx]'
	touch $@

$(VENV)/stamp-docs: $(VENV)/stamp
	$(PIP) --editable '.[docs]'
	touch $@

# torch is named in every command: a package that asks for it unpinned brings the newest build for CUDA.
$(PYIQA)/stamp: pyproject.toml constraints.txt
	test -x $(PYIQA)/bin/python || $(PYTHON) -m venv $(PYIQA)
	$(PYIQA_PIP) torch setuptools
	$(PYIQA_PIP) torch torchvision setuptools --editable '.[pyiqa]' pytest pytest-xdist
	touch $@

install: $(VENV)/stamp

install-dev: $(VENV)/stamp-dev

demo: install
	$(VENV)/bin/robustiqa run --suite quick --out runs/quick

docs: $(VENV)/stamp-docs
	$(PY) docs/reference/build.py build/docs

board: install
	$(PY) examples/board.py run

board-tables: install
	$(PY) examples/board.py tables

gallery: install
	$(VENV)/bin/robustiqa gallery --out docs

soundness: install
	$(VENV)/bin/robustiqa soundness

bench: install-dev
	$(PY) -m benchmarks --out runs/bench.json
	$(PY) -m benchmarks page runs/bench.json

lint: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install-dev
	$(VENV)/bin/pyright

test: lint types
	$(PY) -m pytest -m "not slow and not gpu" --numprocesses auto --dist loadfile --no-loadscope-reorder

test-pyiqa: $(PYIQA)/stamp
	$(PYIQA)/bin/python -m pytest -m "pyiqa and not slow" --numprocesses auto --dist loadfile tests/with_pyiqa

clean:
	rm -rf $(VENV) $(PYIQA) build *.egg-info runs
