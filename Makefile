# `make demo` and `make test` are all a newcomer needs; both make their own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STORE ?= runs/demo
PORT ?= 8050

.PHONY: demo test test-fast test-browser test-extra lint docs bench clean

demo: $(VENV)/installed
	$(BIN)/ringlens demo --store $(STORE) --port $(PORT)

# Three workers on two cores: tests that wait for processes leave a core to others.
# With npm, axe-core looks at every page too.
test: $(VENV)/installed-dev $(if $(shell command -v npm),app/node_modules/installed)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# What the next edit may break, in under a minute; tests/support/slow_files.py lists what is left out.
test-fast: $(VENV)/installed-dev
	RINGLENS_FAST=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not browser"

# The further ways through the dashboard's pages, of which `make test` goes the first.
test-browser: $(VENV)/installed-dev app/node_modules/installed
	RINGLENS_EXTRA=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "browser and extra" tests/app

# What only these run; PART=3/16 a sixteenth (0/16 to 15/16), as CI with each commit.
PART ?= 0/1
test-extra: $(VENV)/installed-dev app/node_modules/installed
	RINGLENS_EXTRA=1 RINGLENS_PART=$(PART) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m extra

lint: $(VENV)/installed-dev app/node_modules/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	npm run --silent --prefix app lint

# The guides and an API reference as a site in build/site; a broken link is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(VENV)/installed-dev
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# torch first and exactly (constraints.txt): what else is installed then keeps it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Checkers of the dashboard's scripts and pages; nothing of it is needed to run it.
app/node_modules/installed: app/package-lock.json
	npm ci --prefix app --no-audit --no-fund --silent
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info app/node_modules
