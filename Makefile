# Everything from a bare Python >= 3.11: each target creates .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help install install-dev demo gallery test soundness lint types clean

help:
	@echo "make install   make .venv and install into it"
	@echo "make demo   install, run the quick suite on the embedded data, print the board (minutes)"
	@echo "make soundness   hold every certified method against known truths and attacks (minutes)"
	@echo "make gallery   write docs/attacks.md and docs/defenses.md again, with pictures (minutes)"
	@echo "make test   install, then lint, types and fast tests"

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
	$(PIP) --editable '.[dev]'
	touch $@

install: $(VENV)/stamp

install-dev: $(VENV)/stamp-dev

demo: install
	$(VENV)/bin/robustiqa run --suite quick --out runs/quick

gallery: install
	$(VENV)/bin/robustiqa gallery --out docs

soundness: install
	$(VENV)/bin/robustiqa soundness

lint: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install-dev
	$(VENV)/bin/pyright

test: lint types
	$(PY) -m pytest -m "not slow and not gpu" --numprocesses auto --dist loadfile

clean:
	rm -rf $(VENV) build *.egg-info runs
