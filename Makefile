# Everything lives in .venv; torch comes as pip finds it, so no lock file names a host.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-units test-integration test-nodes check clean install install-dev

demo: install  ## real active-learning rounds on scikit-learn's digits, in a few minutes
	$(BIN)/dm2at run configs/quickstart.yaml

test: install-dev  ## the whole test suite, what needs Ray beside what does not
	$(MAKE) --jobs 2 --keep-going test-units test-integration test-nodes

test-units: install-dev
	$(BIN)/python -m pytest --ignore tests/integration --ignore tests/multinode

test-integration: install-dev
	$(BIN)/python -m pytest tests/integration

test-nodes: install-dev
	$(BIN)/python -m pytest tests/multinode

check: install-dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dm2at_ray

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, not %d.%d: set PYTHON" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'torchattacks>=3.5'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info
